//! A coordinator that tells a shard something when that has ended already.
//!
//! By seeds it hardly happens: shards are tasks here, and the coordinator reads reports first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::state::tp;
use super::violations::{Still, run};
use crate::decode::{BadRecord, Reason, RecordError};
use crate::failure::Failure;
use crate::pipeline::coordinator::Coordinator;
use crate::pipeline::messages::Report;
use crate::pipeline::start::Started;
use crate::table::TableError;
use crate::telemetry::Health;

fn bad_record() -> BadRecord {
    let (path, detail) = (String::new(), String::from("simulated"));
    let error = RecordError { reason: Reason::NotJson, path, detail };
    BadRecord { partition: tp(0), offset: 0, error }
}

/// The run ends for the reason that the shard told, and not because it was gone: that would be taken
/// for a defect, which no other run follows.
#[test]
fn a_shard_that_has_failed_when_it_is_told_of_a_barrier_is_asked_why() {
    run(async {
        let Still { connected, settings, metrics, .. } = Still::new();
        let health = Health::new(Duration::from_secs(1));
        let started = Started::new(&connected, &settings, "i0-1", &metrics, &health).await.unwrap();
        #[allow(clippy::disallowed_methods, reason = "the pipeline's own kind")]
        let (out, reports) = mpsc::unbounded_channel();
        let (command, commands) = sync_channel(1);
        let (_events, events) = mpsc::channel(1);
        // The first of its reports makes the coordinator send a barrier before it reads the second.
        out.send(Report::Bad(bad_record())).ok();
        let (path, source) = (String::from("f"), "simulated".into());
        let why = TableError::Storage { doing: "write", path, source };
        out.send(Report::Failed(why.into())).ok();
        drop(commands);
        let coordinator = Coordinator {
            settings: Arc::new(settings),
            info: started.info,
            flow: started.flow,
            tables: started.tables,
            epoch: started.epoch,
            owned: BTreeMap::new(),
            timestamps: BTreeMap::new(),
            targets: None,
            left: Vec::new(),
            committer: started.committer,
            source: connected.source,
            progress: Arc::default(),
            commands: vec![command],
            reports,
            events,
            metrics,
            health,
            commits: Arc::default(),
            uncommitted: Arc::default(),
            behind: Arc::default(),
        };
        let (_stop, mut stopping) = watch::channel(false);
        let (ended, _) = coordinator.run(&mut stopping).await;
        let Err(Failure::CheckpointFailed { cause, .. }) = ended else { panic!("{ended:?}") };
        assert!(matches!(*cause, Failure::Table(TableError::Storage { .. })), "{cause}");
    });
}
