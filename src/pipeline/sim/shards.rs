//! A simulated process's shards: tasks, where the real side has threads.

use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::lake::Meta;
use super::port::{Port, SimTable};
use super::sink::SimSink;
use crate::failure::Failure;
use crate::pipeline::messages::{Command, Report};
use crate::pipeline::world::{ShardTask, World};
use crate::protocol::FlowTable;

impl World for Port {
    type Source = Self;
    type Table = SimTable;
    type Checkpoints = Self;
    type Sink = SimSink;

    fn sink(
        &self,
        shard: usize,
        _table: &FlowTable,
        loaded: &Arc<Arc<Meta>>,
    ) -> Result<SimSink, Failure> {
        Ok(SimSink::new(self.clone(), shard, loaded.as_ref().clone()))
    }

    fn spawn_shard(&self, mut task: ShardTask<Self>) -> Result<BoxFuture<'static, bool>, Failure> {
        let port = self.clone();
        let shard = tokio::spawn(async move {
            let ended = port.run_loop(&mut task).await;
            if port.life.is_dead() {
                return;
            }
            if let Err(failure) = ended {
                task.reports.send(Report::Failed(failure)).ok();
            }
            task.shard.abandon(&task.reports);
        });
        Ok(async move { shard.await.is_ok() }.boxed())
    }
}

impl Port {
    /// The loop of a shard, as the real side has it on a thread.
    async fn run_loop(&self, task: &mut ShardTask<Self>) -> Result<(), Failure> {
        loop {
            if self.life.is_dead() {
                return Ok(());
            }
            let until = self.sim.lock().frozen.get(&self.life.slot()).copied();
            if let Some(until) = until {
                tokio::time::sleep_until(until).await;
            }
            let command = match task.commands.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => return Ok(()),
            };
            let obeys = command.is_some();
            let takes = matches!(command, Some(Command::Take(_)));
            let Some(came) = task.turn(command, Duration::ZERO)? else { return Ok(()) };
            if takes {
                // It is within no batch of before, and the client hands over nothing more of it.
                self.sim.lock().drop_stale(self.client, task.index);
            }
            if obeys {
                continue;
            }
            let wait = {
                let mut state = self.sim.lock();
                let longest = if came == 0 { 16 } else { 5 };
                state.up_to(Duration::from_millis(longest))
            };
            tokio::time::sleep(wait).await;
        }
    }
}
