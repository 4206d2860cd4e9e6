//! Everything outside of one pipeline process, as one type: the real world or a simulated one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc::UnboundedSender;

use super::messages::{Command, Report};
use super::seams::{Checkpoints, Sink, Source, Table};
use super::shard::Shard;
use crate::failure::Failure;
use crate::protocol::FlowTable;

/// Everything outside of one pipeline process.
pub(crate) trait World: Clone + Send + Sync + 'static {
    /// Kafka.
    type Source: Source;
    /// The table and its catalog.
    type Table: Table;
    /// Local state.
    type Checkpoints: Checkpoints;
    /// What turns records into data files.
    type Sink: Sink<Table = Loaded<Self>>;

    /// A sink for the shard of this number, for commits to `table` as it was in `loaded`.
    ///
    /// # Errors
    /// If records cannot be decoded into the table's schema.
    fn sink(
        &self,
        shard: usize,
        table: &FlowTable,
        loaded: &Arc<Loaded<Self>>,
    ) -> Result<Self::Sink, Failure>;

    /// Sets a shard going, beside everything else. The future ends with it; false: it panicked.
    ///
    /// # Errors
    /// If that is not possible.
    fn spawn_shard(&self, task: ShardTask<Self>) -> Result<BoxFuture<'static, bool>, Failure>;
}

/// One reading of the table of a world.
pub(crate) type Loaded<W> = <<W as World>::Table as Table>::Loaded;

/// What a process of a pipeline is connected to.
pub(crate) struct Connected<W: World> {
    /// What makes sinks and sets shards going.
    pub world: W,
    /// Kafka.
    pub source: W::Source,
    /// The tables of the flow, by `namespace.table`.
    pub tables: BTreeMap<String, W::Table>,
    /// Local state of the flow.
    pub state: W::Checkpoints,
}

/// A shard with all that connects it.
pub(crate) struct ShardTask<W: World> {
    /// Its number.
    pub index: usize,
    /// The shard.
    pub shard: Shard<W::Sink>,
    /// Its share of the topics.
    pub queue: <W::Source as Source>::Queue,
    /// What it is told. The shard ends with the channel.
    pub commands: Receiver<Command<Loaded<W>>>,
    /// Where it reports.
    pub reports: UnboundedSender<Report>,
}

impl<W: World> ShardTask<W> {
    /// One turn of the shard: obeys a command, or reads for up to `wait` if it may, and answers what it
    /// can. How many messages came; `None` if nobody listens any more and the run is over. Whoever runs
    /// the shard only waits.
    ///
    /// # Errors
    /// If the shard cannot go on.
    pub(crate) fn turn(
        &mut self,
        command: Option<Command<Loaded<W>>>,
        wait: Duration,
    ) -> Result<Option<usize>, Failure> {
        let came = match command {
            Some(command) => match self.shard.obey(command, &self.reports)? {
                true => 0,
                false => return Ok(None),
            },
            None if self.shard.must_hold() => 0,
            None => self.shard.read(&mut self.queue, wait, &self.reports)?,
        };
        Ok(self.shard.answer(&self.reports)?.then_some(came))
    }
}
