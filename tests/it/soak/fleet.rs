//! The processes of a soak, the servers they depend on, and the account of what was produced.

use std::collections::BTreeMap;
use std::time::Duration;

use icestream::parts::Variant;
use serde_json::Value;

use crate::groups::{COUNTED, assigned};
use crate::landing::{records, schema};
use crate::support::icestream::{Icestream, Running};
use crate::support::kafka::Kafka;
use crate::support::oracle::{self, Reader, Verdict};
use crate::support::producing::{Produced, Steady};
use crate::support::proxy::Proxy;
use crate::support::table::{Lake, Table};
use crate::support::{PATIENCE, foreign, look};

pub const PARTITIONS: i32 = 6;
/// Records a second.
const RATE: u64 = 2_000;
const TOPIC: &str = "soak";
/// How often something is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// A process and its settings.
pub struct Member {
    pub icestream: Icestream,
    pub running: Running,
}

/// Everything that a soak disturbs.
pub struct Fleet {
    pub kafka: Kafka,
    lake: Lake,
    pub proxy: Proxy,
    template: Icestream,
    pub members: Vec<Member>,
    /// The load; none when it has ended.
    steady: Option<Steady>,
    /// Records of transactions that were committed.
    pub transactions: Produced,
    /// Rows that another engine appended.
    pub foreign_rows: i64,
    /// From each SIGKILL to the first new commit of the process that came after it.
    pub recoveries: Vec<Duration>,
    counted: BTreeMap<&'static str, f64>,
    /// The first thing that should not have happened.
    pub unexpected: Option<String>,
}

impl Fleet {
    /// `members` processes of one pipeline, under load.
    pub fn new(members: usize, variant: Option<Variant>) -> Self {
        let kafka = Kafka::own();
        kafka.create_topic(TOPIC, PARTITIONS, &[]);
        let lake = Lake::rest();
        let proxy = Proxy::before(&lake.rest_catalog().address());
        let lake = lake.through(proxy.uri());
        let mut template = Icestream::new(&kafka, TOPIC, &lake, "db.soak")
            .schema(&schema())
            .set("KAFKA_SESSION_TIMEOUT_MS", "3000")
            .set("KAFKA_REVOCATION_TIMEOUT_MS", "5000")
            .set("CHECKPOINT_INTERVAL_MS", "300");
        if let Some(variant) = variant {
            template = template.environment("ICESTREAM_BROKEN_VARIANT", variant.name());
        }
        let steady = kafka.produce_steadily(TOPIC, RATE, records(PARTITIONS, 0..i64::MAX));
        let mut fleet = Self {
            kafka,
            lake,
            proxy,
            template,
            members: Vec::new(),
            steady: Some(steady),
            transactions: Produced { topic: TOPIC.into(), ..Produced::default() },
            foreign_rows: 0,
            recoveries: Vec::new(),
            counted: BTreeMap::new(),
            unexpected: None,
        };
        for _ in 0..members {
            fleet.add();
        }
        fleet.wait_progress("the start", PATIENCE);
        assert_eq!(fleet.unexpected, None);
        fleet
    }

    pub fn table(&self) -> Table<'_> {
        self.lake.table("db.soak")
    }

    pub fn topic(&self) -> &'static str {
        TOPIC
    }

    pub fn add(&mut self) {
        let icestream = self.template.member();
        let running = icestream.run();
        self.members.push(Member { icestream, running });
    }

    /// Adds up what a process counted, before it goes.
    pub fn count(&mut self, member: usize) {
        let Some(metrics) = self.members[member].running.metrics() else { return };
        for (what, name, labels) in COUNTED {
            *self.counted.entry(what).or_default() += metrics.value(name, labels).unwrap_or(0.0);
        }
    }

    /// What all processes counted.
    pub fn counted(&mut self) -> BTreeMap<&'static str, f64> {
        for member in 0..self.members.len() {
            self.count(member);
        }
        self.counted.clone()
    }

    /// The sum of all offsets in the ledger.
    pub fn ledger(&self) -> i64 {
        let property =
            format!("icestream.ledger.{}", self.template.setting("KAFKA_GROUP_ID").unwrap());
        let Some(text) = self.table().property(&property) else { return 0 };
        let ledger: Value = serde_json::from_str(&text).expect("a ledger that is JSON");
        let next = ledger["topics"][TOPIC]["next"].as_object();
        next.map_or(0, |next| next.values().filter_map(Value::as_i64).sum())
    }

    /// Polls until it is so. A process that ended by itself meanwhile, or the end of the time, is
    /// the unexpected.
    pub fn wait(&mut self, what: &str, within: Duration, so: impl Fn(&mut Self) -> bool) {
        let over = look(EVERY, within, || {
            if self.unexpected.is_some() || so(self) {
                return Some(());
            }
            let mut ended =
                self.members.iter_mut().filter_map(|member| match member.running.runs() {
                    true => None,
                    false => member.running.log().lines().last().map(str::to_owned),
                });
            let line = ended.next()?;
            self.unexpected = Some(format!("{what}: a process ended: {line}"));
            Some(())
        });
        if over.is_none() {
            let standing = self.standing();
            self.unexpected = Some(format!("waited {within:?} for {what}, in vain: {standing}"));
        }
    }

    /// What each process reads, and the end of its log.
    fn standing(&self) -> String {
        let of = |member: &Member| {
            let last = member.running.log().lines().last().unwrap_or_default().to_owned();
            format!("{} partitions, {last}", assigned(&member.running))
        };
        self.members.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    /// Waits until the ledger goes on, with every process at work.
    pub fn wait_progress(&mut self, what: &str, within: Duration) {
        let before = self.ledger();
        let what = format!("a commit after {what}");
        self.wait(&what, within, |fleet| fleet.ledger() > before);
    }

    /// Waits until every process has ended, which is what is expected of them now.
    fn wait_ended(&mut self, what: &str, within: Duration) -> Result<(), String> {
        let ended = || self.members.iter_mut().all(|m| !m.running.runs()).then_some(());
        let ended = look(EVERY, within, ended);
        ended.ok_or_else(|| format!("waited {within:?} for {what}, in vain"))
    }

    /// Waits until these processes own all partitions.
    pub fn wait_owned(&mut self, members: &[usize]) {
        self.wait("all partitions to be owned", Duration::from_secs(120), |fleet| {
            let running = members.iter().map(|member| &fleet.members[*member].running);
            running.map(assigned).sum::<f64>() == f64::from(PARTITIONS)
        });
    }

    /// From SIGKILL to the first commit after it: median and 99th percentile.
    pub fn recoveries(&mut self) -> String {
        self.recoveries.sort();
        let count = self.recoveries.len();
        let at = |percent: usize| {
            self.recoveries.get((count * percent / 100).min(count.saturating_sub(1))).copied()
        };
        format!("{count} kills: to the first new commit p50 {:?}, p99 {:?}", at(50), at(99))
    }

    /// Ends the load and the processes, lets one read what is left, and asks the judges: both
    /// readers, and `icestream verify` with and without rows. Says what did not end otherwise.
    pub fn finish(mut self) -> Result<(Vec<Verdict>, bool), String> {
        let steady = self.steady.take().expect("the load ends once");
        let produced = steady.stop().and(&self.transactions);
        for member in &mut self.members {
            member.running.ask_to_stop();
        }
        self.wait_ended("the processes to stop", PATIENCE)?;
        let icestream = self.template.another();
        let running = icestream.start(&["run", "--until-caught-up"]);
        self.members = vec![Member { icestream, running }];
        self.wait_ended("the last of them to catch up", Duration::from_secs(300))?;
        let last = self.members[0].icestream.clone();
        println!("{} records", produced.count());
        let table = self.lake.table("db.soak");
        let others = Produced {
            topic: "foreign".into(),
            offsets: [(0, vec![0..self.foreign_rows])].into(),
            payloads: None,
        };
        let judge = |reader| oracle::judge(&table, &[&produced, &others], reader);
        let verdicts = Reader::EACH.map(judge).into();
        let verify = |arguments: &[&str]| last.command(arguments).code == Some(0);
        let verified = verify(&["verify"]) && verify(&["verify", "--rows"]);
        Ok((verdicts, verified))
    }

    /// An action of another engine, before the commits that are under way: it would lose against
    /// processes that commit all the time, and they must bear that it wins.
    pub fn maintain(&mut self, action: &str) {
        let table = self.table();
        let number = self.foreign_rows / 10;
        let answer =
            foreign::undisturbed(&table, &self.proxy, || foreign::maintain(&table, action, number));
        if action == "append" {
            self.foreign_rows += answer;
        }
    }
}
