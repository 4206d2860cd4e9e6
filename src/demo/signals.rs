//! Ctrl-C and SIGTERM, as a flag that every loop looks at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::error::DemoError;

/// Was the demo asked to stop?
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for signals as long as the runtime lives.
    pub(crate) fn on_signals(runtime: &Runtime) -> Result<Self, DemoError> {
        let stop = Self::default();
        let _entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Runtime)?;
        let flag = stop.clone();
        runtime.spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.0.store(true, Ordering::Relaxed);
        });
        Ok(stop)
    }

    /// # Errors
    /// `Interrupted` once a signal came.
    pub(crate) fn check(&self) -> Result<(), DemoError> {
        if self.0.load(Ordering::Relaxed) { Err(DemoError::Interrupted) } else { Ok(()) }
    }
}
