//! The way of a file's bytes to its store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use iceberg::io::FileWrite;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::WriteError;

/// Bytes that are handed over at once: few enough to be in the cache still. Of an upload all but the
/// last are of exactly this size, so that its parts are of one size, too: some stores (Cloudflare R2)
/// refuse it otherwise.
const CHUNK: usize = 256 << 10;
/// Chunks of a file that may wait for the store.
const WAITING: usize = 4;

/// What the store said no to.
pub(super) struct Refusal {
    action: &'static str,
    source: Box<iceberg::Error>,
}

impl Refusal {
    fn new(action: &'static str, source: iceberg::Error) -> Self {
        Self { action, source: Box::new(source) }
    }

    fn to_write(source: iceberg::Error) -> Self {
        Self::new("write", source)
    }

    fn to_close(source: iceberg::Error) -> Self {
        Self::new("close", source)
    }

    /// The error that names the file.
    pub(super) fn of(self, path: &str) -> WriteError {
        WriteError::storage(self.action, path, *self.source)
    }
}

/// Takes what the encoder has finished and gives it to the store: local files at once, uploads on
/// a task of their own, so that rows are encoded meanwhile. Holds back the encoder where the store
/// is slower. Used on a plain thread only.
pub(super) struct ByteSink {
    chunk: Vec<u8>,
    way: Way,
    runtime: Handle,
    sent: u64,
    refusal: Option<Refusal>,
}

/// A file that ends.
pub(super) struct Closing {
    task: JoinHandle<Result<(), Refusal>>,
    runtime: Handle,
}

impl Closing {
    /// Is it durable, or refused?
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until it is durable.
    pub(super) fn wait(self) -> Result<(), Refusal> {
        let closed = self.runtime.block_on(self.task);
        closed.unwrap_or_else(|error| Err(Refusal::to_close(unexpected(&error))))
    }
}

enum Way {
    Here(Box<dyn FileWrite>),
    Task {
        chunks: Sender<Bytes>,
        /// Bytes that wait for the task.
        waiting: Arc<AtomicU64>,
        task: JoinHandle<Carried>,
    },
    /// Ended early: what the store said is in `refusal`. The upload is still to be abandoned.
    Refused(Box<dyn FileWrite>),
    /// Taken.
    Closed,
}

type Carried = (Box<dyn FileWrite>, Result<(), iceberg::Error>);

impl ByteSink {
    /// Into a local file, on the thread that writes.
    pub(super) fn here(sink: Box<dyn FileWrite>, runtime: Handle) -> Self {
        Self { chunk: Vec::new(), way: Way::Here(sink), runtime, sent: 0, refusal: None }
    }

    /// Into an upload, on a task of `runtime`.
    pub(super) fn aside(sink: Box<dyn FileWrite>, runtime: Handle) -> Self {
        let (chunks, receiver) = channel(WAITING);
        let waiting = Arc::new(AtomicU64::new(0));
        let task = runtime.spawn(carry(sink, receiver, waiting.clone()));
        let way = Way::Task { chunks, waiting, task };
        Self { chunk: Vec::new(), way, runtime, sent: 0, refusal: None }
    }

    /// What this was, leaving one that takes nothing.
    pub(super) fn take(&mut self) -> Self {
        let runtime = self.runtime.clone();
        let nothing = Self { chunk: Vec::new(), way: Way::Closed, runtime, sent: 0, refusal: None };
        std::mem::replace(self, nothing)
    }

    /// Bytes taken from the encoder so far.
    pub(super) fn taken(&self) -> u64 {
        self.sent + self.chunk.len() as u64
    }

    /// Bytes given to the store so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes that wait for the store.
    pub(super) fn waiting(&self) -> u64 {
        let waiting = match &self.way {
            Way::Task { waiting, .. } => waiting.load(Ordering::Relaxed),
            Way::Here(_) | Way::Refused(_) | Way::Closed => 0,
        };
        waiting + self.chunk.len() as u64
    }

    /// What the store said no to, if the encoder failed for that.
    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Gives the store what was taken; of an upload the whole chunks.
    pub(super) fn send(&mut self) -> io::Result<()> {
        let length = self.chunk.len();
        self.hand_over(match self.way {
            Way::Task { .. } => length - length % CHUNK,
            Way::Here(_) | Way::Refused(_) | Way::Closed => length,
        })
    }

    /// Gives the store so many bytes.
    fn hand_over(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let rest = self.chunk.split_off(length);
        let mut bytes = Bytes::from(std::mem::replace(&mut self.chunk, rest));
        match &mut self.way {
            Way::Here(sink) => {
                if let Err(error) = self.runtime.block_on(sink.write(bytes)) {
                    self.refusal.get_or_insert(Refusal::to_write(error));
                    return Err(io::Error::other("the store refused a part"));
                }
            }
            Way::Task { chunks, waiting, .. } => {
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    waiting.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    if chunks.blocking_send(chunk).is_err() {
                        return Err(self.ended());
                    }
                }
            }
            Way::Refused(_) | Way::Closed => {
                return Err(io::Error::other("the file has ended"));
            }
        }
        self.sent += length as u64;
        Ok(())
    }

    /// The task ended before its time: says why.
    fn ended(&mut self) -> io::Error {
        if let Way::Task { task, .. } = std::mem::replace(&mut self.way, Way::Closed) {
            let refused = match self.runtime.block_on(task) {
                Ok((sink, carried)) => {
                    self.way = Way::Refused(sink);
                    carried.err()
                }
                Err(error) => Some(unexpected(&error)),
            };
            if let Some(error) = refused {
                self.refusal.get_or_insert(Refusal::to_write(error));
            }
        }
        io::Error::other("the store refused a part")
    }

    /// Gives the store what is left and ends the file there: it is durable when that is done. Other
    /// files may be written and ended meanwhile.
    pub(super) fn close(mut self) -> Result<Closing, Refusal> {
        let sent = self.hand_over(self.chunk.len());
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        sent.map_err(|error| Refusal::to_write(unexpected(&error)))?;
        let runtime = self.runtime.clone();
        let task = match self.way {
            Way::Here(mut sink) => self
                .runtime
                .spawn_blocking(move || runtime.block_on(sink.close()).map_err(Refusal::to_close)),
            Way::Task { chunks, task, .. } => {
                drop(chunks);
                self.runtime.spawn(async {
                    let (mut sink, carried) =
                        task.await.map_err(|error| Refusal::to_write(unexpected(&error)))?;
                    carried.map_err(Refusal::to_write)?;
                    sink.close().await.map_err(Refusal::to_close)
                })
            }
            Way::Refused(_) | Way::Closed => {
                let ended = unexpected(&io::Error::other("the file has ended"));
                return Err(Refusal::to_close(ended));
            }
        };
        Ok(Closing { task, runtime: self.runtime })
    }

    /// Ends the file as it is. An unfinished upload is completed by this, so that the object can be
    /// deleted and no parts of it stay behind unseen.
    pub(super) fn abandon(self) -> Result<(), iceberg::Error> {
        let mut sink = match self.way {
            Way::Here(sink) | Way::Refused(sink) => sink,
            Way::Task { chunks, task, .. } => {
                drop(chunks);
                // What was not carried is not wanted any more.
                self.runtime.block_on(task).map_err(|error| unexpected(&error))?.0
            }
            Way::Closed => return Ok(()),
        };
        self.runtime.block_on(sink.close())
    }
}

impl io::Write for ByteSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    /// The store is given whole chunks, and the rest when the file ends, of a local one also when a row
    /// group does.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn carry(
    mut sink: Box<dyn FileWrite>,
    mut chunks: Receiver<Bytes>,
    waiting: Arc<AtomicU64>,
) -> Carried {
    while let Some(chunk) = chunks.recv().await {
        let length = chunk.len() as u64;
        if let Err(error) = sink.write(chunk).await {
            return (sink, Err(error));
        }
        waiting.fetch_sub(length, Ordering::Relaxed);
    }
    (sink, Ok(()))
}

fn unexpected(error: &dyn std::error::Error) -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::pin::Pin;
    use std::sync::Mutex;

    use super::*;

    type Answer<'a> = Pin<Box<dyn Future<Output = iceberg::Result<()>> + Send + 'a>>;

    /// Notes how much it is given at once.
    struct Sizes(Arc<Mutex<Vec<usize>>>);

    impl FileWrite for Sizes {
        fn write<'a, 'b>(&'a mut self, bytes: Bytes) -> Answer<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            self.0.lock().unwrap().push(bytes.len());
            Box::pin(async { Ok(()) })
        }

        fn close<'a, 'b>(&'a mut self) -> Answer<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Ok(()) })
        }
    }

    /// Takes so many chunks and then says no.
    struct Store {
        takes: usize,
        taken: Arc<Mutex<Vec<u8>>>,
        closed: Arc<Mutex<bool>>,
    }

    impl FileWrite for Store {
        fn write<'a, 'b>(&'a mut self, bytes: Bytes) -> Answer<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                if self.takes == 0 {
                    return Err(unexpected(&io::Error::other("no more room")));
                }
                self.takes -= 1;
                self.taken.lock().unwrap().extend_from_slice(&bytes);
                Ok(())
            })
        }

        fn close<'a, 'b>(&'a mut self) -> Answer<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            *self.closed.lock().unwrap() = true;
            Box::pin(std::future::ready(Ok(())))
        }
    }

    /// A sink of either way into a store that takes so many chunks.
    fn sinks(takes: usize, each: impl Fn(ByteSink, Arc<Mutex<Vec<u8>>>, Arc<Mutex<bool>>)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.unwrap();
        for way in [ByteSink::here, ByteSink::aside] {
            let (taken, closed) = (Arc::default(), Arc::default());
            let store = Store { takes, taken: Arc::clone(&taken), closed: Arc::clone(&closed) };
            each(way(Box::new(store), runtime.handle().clone()), taken, closed);
        }
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn every_byte_arrives_in_order_and_the_file_is_closed() {
        sinks(usize::MAX, |mut sink, taken, closed| {
            let all = bytes(9 * CHUNK + 77);
            for part in all.chunks(10_007) {
                sink.write_all(part).unwrap();
            }
            assert_eq!(sink.taken(), all.len() as u64);
            assert!(sink.sent() <= sink.taken() && sink.waiting() > 0);
            sink.close().ok().unwrap().wait().ok().unwrap();
            assert!(*taken.lock().unwrap() == all && *closed.lock().unwrap());
        });
    }

    #[test]
    fn an_upload_is_given_chunks_of_one_size_whatever_the_encoder_writes() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (sizes, all) = (Arc::new(Mutex::new(Vec::new())), bytes(7 * CHUNK + 5));
        let mut sink = ByteSink::aside(Box::new(Sizes(sizes.clone())), runtime.handle().clone());
        let mut left = &all[..];
        for length in [1, CHUNK - 1, 3 * CHUNK + 9, 2, CHUNK].into_iter().chain([usize::MAX]) {
            let (now, rest) = left.split_at(length.min(left.len()));
            sink.write_all(now).unwrap();
            // As a row group ends.
            sink.send().unwrap();
            left = rest;
        }
        assert_eq!((sink.sent(), sink.taken()), (7 * CHUNK as u64, all.len() as u64));
        sink.close().ok().unwrap().wait().ok().unwrap();
        let expected: Vec<usize> = [CHUNK; 7].into_iter().chain([5]).collect();
        assert_eq!(*sizes.lock().unwrap(), expected);
    }

    #[test]
    fn what_the_store_said_is_told_by_the_write_that_meets_it_or_by_the_end() {
        sinks(1, |mut sink, _, closed| {
            let part = bytes(CHUNK);
            // However far ahead of the store the encoder is, it is held back at last.
            let failed = (0..WAITING + 4).find_map(|_| sink.write_all(&part).err());
            assert!(failed.is_some());
            let error = format!("{:?}", sink.take_refusal().unwrap().of("a/b"));
            assert!(error.contains("no more room") && error.contains("a/b"), "{error}");
            assert!(sink.write_all(&part).is_err());
            // Parts of an upload must not stay behind unseen.
            sink.abandon().unwrap();
            assert!(*closed.lock().unwrap());
        });
        sinks(0, |mut sink, _, _| {
            sink.write_all(b"few").unwrap();
            let ended = sink.close().and_then(Closing::wait);
            let error = format!("{:?}", ended.err().unwrap().of("a/b"));
            assert!(error.contains("no more room"), "{error}");
        });
    }

    #[test]
    fn a_file_that_is_abandoned_is_closed_all_the_same() {
        sinks(usize::MAX, |mut sink, _, closed| {
            sink.write_all(&bytes(3 * CHUNK)).unwrap();
            sink.abandon().unwrap();
            assert!(*closed.lock().unwrap());
        });
    }
}
