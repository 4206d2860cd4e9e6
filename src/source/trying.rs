//! Whether brokers let icestream's own fetcher in, before anything is read.

use std::time::Duration;

use super::{Source, SourceError};
use crate::protocol::{Offset, TopicPartition};

/// How many brokers are asked whether they are too old, and how long that may take at a start.
const ASKED: usize = 8;
const ANSWER: Duration = Duration::from_secs(5);

/// Can icestream's own fetcher be used with these brokers?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// No broker answered in time.
    Unknown,
    /// Those that answered are new enough. Whether they let it in shows when it reads.
    Fits,
    /// One is too old, and what it says.
    TooOld(String),
}

impl Source {
    /// Asks brokers for the versions that they speak. Blocks for at most about `timeout`, and five seconds more.
    pub(crate) fn fit(&self, timeout: Duration) -> Fit {
        let Some(fetcher) = &self.fetcher else { return Fit::Unknown };
        if let Err(error) = self.metadata(timeout) {
            tracing::debug!(%error, "brokers are not asked for their versions");
            return Fit::Unknown;
        }
        let tried = fetcher.try_some(ASKED, ANSWER);
        let fits = tried.iter().any(|tried| tried.outcome.is_ok());
        let mut too_old = tried.into_iter().filter(|tried| tried.is_too_old);
        match too_old.find_map(|tried| tried.outcome.err()) {
            Some(error) => Fit::TooOld(error.to_string()),
            None if fits => Fit::Fits,
            None => Fit::Unknown,
        }
    }

    /// Lets icestream's own fetcher ask the leader of each of these partitions for what is at an offset. How
    /// many brokers answered; `None` if librdkafka fetches.
    pub(crate) fn try_fetching(
        &self,
        at: impl Iterator<Item = (TopicPartition, Offset)>,
        timeout: Duration,
    ) -> Result<Option<usize>, SourceError> {
        let Some(fetcher) = &self.fetcher else { return Ok(None) };
        self.metadata(timeout)?;
        let tried = fetcher.try_leaders(at, timeout);
        let brokers = tried.len();
        tried.into_iter().try_for_each(|tried| tried.outcome)?;
        Ok(Some(brokers))
    }
}
