//! The thread that fetches from one broker for one shard.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{Address, Connection};
use super::exchange_error::ExchangeError;
use super::security::Security;
use super::shard_fetch::{Plan, ShardFetch};
use super::wire::Answer;

/// Waits after failures in a row: from the first to the second, doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// An answer of fewer bytes means that the end of the log is near. Then brokers are left alone for
/// a moment, in which records gather, instead of being asked for each batch that a producer sends.
const SMALL: usize = 64 << 10;
const GATHER: Duration = Duration::from_millis(10);

/// Of how many failures in a row one is reported: about one each minute. Who does not let us in for
/// that long, or speaks another language, is not waited for.
const REMINDER: u32 = 30;

/// See the module. Runs until the shard is stopped, or its broker leads nothing of it.
pub(super) struct Worker {
    fetch: Arc<ShardFetch>,
    broker: i32,
    security: Arc<Security>,
    connection: Option<(Address, Connection)>,
    failures: u32,
    /// The shard's fetch knows that it ends.
    ended: bool,
}

impl Worker {
    pub(super) fn new(fetch: Arc<ShardFetch>, broker: i32, security: Arc<Security>) -> Self {
        Self { fetch, broker, security, connection: None, failures: 0, ended: false }
    }

    pub(super) fn run(mut self) {
        while let Some(plan) = self.fetch.plan(self.broker) {
            let mut buffer = self.fetch.buffer();
            let go_on = match self.exchange(&plan, &mut buffer) {
                Ok(answer) => {
                    self.failures = 0;
                    self.pass_on(&plan, answer, buffer)
                }
                Err(error) => {
                    self.fetch.give_back(buffer);
                    self.failed(&plan.address, &error)
                }
            };
            if !go_on {
                break;
            }
        }
        self.ended = true;
    }

    fn exchange(&mut self, plan: &Plan, buffer: &mut Vec<u8>) -> Result<Answer, ExchangeError> {
        let open = self
            .connection
            .take()
            .filter(|(address, connection)| *address == plan.address && !connection.ends_soon());
        let mut connection = match open {
            Some((_, connection)) => connection,
            None => Connection::open(&plan.address, &self.security)?,
        };
        let answer = connection.fetch(&self.fetch.topics, &plan.wanted, plan.limits, buffer)?;
        self.connection = Some((plan.address.clone(), connection));
        Ok(answer)
    }

    /// Gives the shard its part. Waits while it has enough. False: nobody is left.
    fn pass_on(&mut self, plan: &Plan, answer: Answer, buffer: Vec<u8>) -> bool {
        let (error, throttle) = (answer.error, answer.throttle_ms);
        let bytes: usize = answer.partitions.iter().map(|each| each.records.len()).sum();
        if !self.fetch.accept(plan, answer, buffer) {
            return false;
        }
        // Of many brokers' answers each is small.
        let asked = usize::try_from(plan.limits.bytes).unwrap_or(SMALL);
        let small = SMALL.min(asked / 2);
        if error != 0 {
            tracing::warn!(broker = self.broker, error, "the broker answers a fetch with an error");
            return self.fetch.rest(BACKOFF.1);
        }
        match u64::try_from(throttle) {
            Ok(millis) if millis > 0 => self.fetch.rest(Duration::from_millis(millis)),
            _ if bytes > 0 && bytes < small => self.fetch.rest(GATHER),
            _ => true,
        }
    }

    /// Waits after a failure, while leaders are asked for. False: it is over.
    fn failed(&mut self, address: &Address, error: &ExchangeError) -> bool {
        if self.failures.is_multiple_of(REMINDER) {
            tracing::warn!(broker = self.broker, %address, %error, "cannot fetch; trying again");
        } else {
            tracing::debug!(broker = self.broker, %address, %error, "cannot fetch still");
        }
        let wait = BACKOFF.0.saturating_mul(1 << self.failures.min(10)).min(BACKOFF.1);
        match self.failures {
            0 => self.fetch.ask_for_leaders_now(),
            _ => self.fetch.ask_for_leaders(),
        }
        self.failures += 1;
        if self.failures >= REMINDER && error.is_lasting() {
            let broker = address.to_string();
            self.fetch.refuse(self.broker, &broker, &error.to_string());
        }
        self.fetch.pause(wait)
    }
}

impl Drop for Worker {
    /// One that could not be started, or panicked.
    fn drop(&mut self) {
        if !self.ended {
            self.fetch.lost_worker(self.broker);
        }
    }
}
