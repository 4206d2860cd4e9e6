//! Threads: one for calls that block and take much memory, and others that end by themselves.

use std::sync::mpsc::{Sender, channel};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::failure::Failure;

type Call = Box<dyn FnOnce() + Send>;

/// Runs calls one after the other, always on the same thread. Allocators keep what was freed by threads:
/// what a large checkpoint takes while it is written is used again by the next one here, and would be
/// kept by each thread of a pool. As many calls wait as there are callers that wait for an answer.
#[derive(Clone)]
pub(super) struct OwnThread(Sender<Call>);

impl OwnThread {
    /// The thread ends with the last of its clones.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(super) fn start(name: &str) -> Result<Self, Failure> {
        let (calls, waiting) = channel::<Call>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || waiting.into_iter().for_each(|call| call()))
            .map_err(|error| Failure::Internal(format!("cannot start a thread: {error}")))?;
        Ok(Self(calls))
    }

    /// The answer to a call. Once begun it goes on to its end, also if nobody waits for it any more.
    ///
    /// # Errors
    /// Its own; or that an earlier one panicked.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let ended = || Failure::Internal(String::from("a thread ended before its time"));
        let (told, answer) = oneshot::channel();
        // Nobody waits for the answer any more: the run ended.
        let call: Call = Box::new(move || drop(told.send(call())));
        self.0.send(call).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// A thread; the future ends with it. False: it panicked.
pub(super) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> Result<BoxFuture<'static, bool>, Failure> {
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(run)
        .map_err(|error| Failure::Internal(format!("cannot start a thread: {error}")))?;
    let join = tokio::task::spawn_blocking(move || thread.join().is_ok());
    Ok(async move { join.await.unwrap_or(false) }.boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_run_on_one_thread_in_order_and_one_that_panics_is_told() {
        let thread = OwnThread::start("calls").unwrap();
        let here = || Ok(std::thread::current().id());
        let (one, other) = (thread.call(here).await.unwrap(), thread.call(here).await.unwrap());
        assert!(one == other && one != std::thread::current().id());
        assert!(thread.call(|| -> Result<(), Failure> { panic!("a defect") }).await.is_err());
        assert!(thread.call(here).await.is_err());
    }
}
