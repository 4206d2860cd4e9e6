//! A real Apache Kafka broker: one node that is broker and KRaft controller at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::process::{self, Process};
use super::{PATIENCE, block_on, free_port, new_dir, parts, wait_for};

const ASK: Duration = Duration::from_secs(10);

/// A broker. Dropping it kills it.
pub struct Kafka {
    dir: PathBuf,
    node: i32,
    /// Addresses of all brokers of its cluster.
    brokers: String,
    /// Copies of each partition.
    replicas: i32,
    process: Option<Process>,
}

impl Kafka {
    /// The broker that all tests share. It is never stopped: take [`Kafka::own`] for that.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::own)
    }

    /// A broker of one's own, which may be stopped and started again with what it holds.
    pub fn own() -> Self {
        Self::with_config(&[])
    }

    /// [`Kafka::own`] with broker settings on top of the ones made for tests; listeners are added.
    pub fn with_config(settings: &[(&str, &str)]) -> Self {
        Self::cluster_with_config(1, settings).remove(0)
    }

    /// So many brokers of one cluster, each with a copy of every partition: any but one may be
    /// away. Topics are made and written to through any of them, whether it runs or not.
    pub fn cluster(brokers: i32) -> Vec<Self> {
        let copies = brokers.to_string();
        let settings = [
            ("offsets.topic.replication.factor", copies.as_str()),
            ("transaction.state.log.replication.factor", copies.as_str()),
            ("broker.session.timeout.ms", "3000"),
            ("broker.heartbeat.interval.ms", "500"),
        ];
        Self::cluster_with_config(brokers, &settings)
    }

    fn cluster_with_config(brokers: i32, settings: &[(&str, &str)]) -> Vec<Self> {
        let nodes: Vec<_> =
            (1..=brokers).map(|node| (node, free_port(), free_port(), new_dir("kafka"))).collect();
        let list = |of: &dyn Fn(i32, u16, u16) -> String| {
            let each =
                nodes.iter().map(|(node, port, controller, _)| of(*node, *port, *controller));
            each.collect::<Vec<_>>().join(",")
        };
        let voters = list(&|node, _, controller| format!("{node}@127.0.0.1:{controller}"));
        let addresses = list(&|_, port, _| format!("127.0.0.1:{port}"));
        let cluster_id = URL_SAFE_NO_PAD.encode(uuid::Uuid::new_v4());
        let mut cluster: Vec<Self> = Vec::new();
        for (node, port, controller, dir) in nodes.iter().cloned() {
            let id = node.to_string();
            let own = [("node.id", id.as_str()), ("controller.quorum.voters", voters.as_str())];
            let settings = [&own, settings].concat();
            let config = dir.join("server.properties");
            fs::write(&config, server_properties(&dir, port, controller, &settings))
                .expect("cannot write the broker's settings");
            fs::write(dir.join("log4j2.properties"), LOG_SETTINGS)
                .expect("cannot write the broker's log settings");
            let mut format = java(&dir);
            format.args(["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]);
            // One word: an id may begin with a hyphen.
            format.args([&format!("--cluster-id={cluster_id}"), "-c"]).arg(&config);
            process::output("the formatting of Kafka's storage", format);
            let brokers_of_all = addresses.clone();
            let process = None;
            cluster.push(Self { dir, node, brokers: brokers_of_all, replicas: brokers, process });
        }
        // Together: a controller alone is not the majority that answers.
        cluster.iter_mut().for_each(Self::spawn);
        cluster.iter_mut().for_each(Self::wait_answer);
        cluster
    }

    /// Starts a stopped broker and waits until its cluster answers. Nothing happens if it runs.
    pub fn start(&mut self) {
        if self.process.is_none() {
            self.spawn();
            self.wait_answer();
        }
    }

    fn spawn(&mut self) {
        let mut command = java(&self.dir);
        // Brokers of a cluster have little to do, each.
        let heap = if self.replicas > 1 { "-Xmx256m" } else { "-Xmx512m" };
        command.args([heap, "-XX:+UseSerialGC", "kafka.Kafka"]);
        command.arg(self.dir.join("server.properties"));
        self.process = Some(Process::start("Kafka", command, &self.dir.join("kafka.log")));
    }

    /// Waits until this broker is one of those that a client finds.
    fn wait_answer(&mut self) {
        let client = self.client();
        let node = self.node;
        let process = self.process.as_mut().expect("this broker is stopped");
        process.wait_ready("answer a metadata request", PATIENCE, |_| {
            let metadata = client.fetch_metadata(None, Duration::from_secs(1)).ok()?;
            metadata.brokers().iter().any(|broker| broker.id() == node).then_some(())
        });
    }

    /// Its id in the cluster.
    pub fn node(&self) -> i32 {
        self.node
    }

    /// The broker that leads a partition now.
    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        self.wait_leaders(topic, |leaders| leaders.contains_key(&partition))[&partition]
    }

    /// Waits until the brokers that lead the partitions are as wanted. Partitions that nobody leads
    /// are left out.
    pub fn wait_leaders(
        &self,
        topic: &str,
        wanted: impl Fn(&BTreeMap<i32, i32>) -> bool,
    ) -> BTreeMap<i32, i32> {
        let client = self.client();
        wait_for(&format!("leaders of {topic}"), PATIENCE, || {
            let metadata = client.fetch_metadata(Some(topic), ASK).ok()?;
            let found = metadata.topics().first()?.partitions().iter();
            let led = found.filter(|p| p.leader() >= 0);
            let leaders = led.map(|p| (p.id(), p.leader())).collect();
            wanted(&leaders).then_some(leaders)
        })
    }

    /// Runs `tests/it/support/KafkaClient.java`, which has Kafka's own clients, against the cluster.
    pub fn java_client(&self, command: &str, arguments: &[&str]) {
        let mut client = java(&self.dir);
        client.args(["-XX:TieredStopAtLevel=1", "tests/it/support/KafkaClient.java", command]);
        client.arg(self.brokers()).args(arguments);
        process::output(&format!("Kafka's client ({command})"), client);
    }

    /// SIGKILL. What was acknowledged stays in its log files.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits for the orderly end.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            process.wait(PATIENCE);
        }
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.running().signal("STOP");
    }

    /// SIGCONT: undoes [`Kafka::freeze`].
    pub fn thaw(&self) {
        self.running().signal("CONT");
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("this broker is stopped")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Where the logs of the partitions are, each in a directory `TOPIC-PARTITION`.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// `HOST:PORT` of it and the others of its cluster, for `KAFKA_BROKERS`.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }

    /// A client's settings with nothing but the address in it.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        // Silent while a broker starts; a failure shows where its result is looked at.
        config.set("log_level", "0");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().expect("a Kafka admin client")
    }

    fn client(&self) -> BaseConsumer {
        self.client_config().create().expect("a Kafka client")
    }

    /// Creates a topic and waits until its partitions have leaders.
    pub fn create_topic(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.create(
            NewTopic::new(topic, partitions, TopicReplication::Fixed(self.replicas)),
            configs,
        );
    }

    /// Creates a topic of one partition, with copies on these brokers only, and waits for a leader.
    pub fn create_topic_on(&self, topic: &str, brokers: &[i32], configs: &[(&str, &str)]) {
        let replicas = [brokers];
        self.create(NewTopic::new(topic, 1, TopicReplication::Variable(&replicas)), configs);
    }

    /// Creates a topic whose partitions have one copy each, on these brokers in turn.
    pub fn create_topic_spread(&self, topic: &str, partitions: i32, brokers: &[i32]) {
        let each: Vec<Vec<i32>> =
            brokers.iter().cycle().map(|broker| vec![*broker]).take(partitions as usize).collect();
        let replicas: Vec<&[i32]> = each.iter().map(Vec::as_slice).collect();
        let replication = TopicReplication::Variable(&replicas);
        self.create(NewTopic::new(topic, partitions, replication), &[]);
    }

    fn create<'a>(&self, mut new: NewTopic<'a>, configs: &[(&'a str, &'a str)]) {
        let (topic, partitions) = (new.name, new.num_partitions);
        for (name, value) in configs {
            new = new.set(name, value);
        }
        let results = block_on(self.admin().create_topics(&[new], &admin_options()))
            .expect("Kafka did not answer the creation of a topic");
        for result in results {
            result.unwrap_or_else(|(topic, error)| panic!("cannot create topic {topic}: {error}"));
        }
        let client = self.client();
        wait_for(&format!("leaders of the topic {topic}"), PATIENCE, || {
            let metadata = client.fetch_metadata(Some(topic), ASK).ok()?;
            let found = metadata.topics().first()?.partitions();
            let led = found.iter().filter(|p| p.error().is_none() && p.leader() >= 0).count();
            (i32::try_from(led).ok()? == partitions).then_some(())
        });
    }

    /// Deletes a topic and waits until it is gone.
    pub fn delete_topic(&self, topic: &str) {
        let results = block_on(self.admin().delete_topics(&[topic], &admin_options()))
            .expect("Kafka did not answer the deletion of a topic");
        for result in results {
            result.unwrap_or_else(|(topic, error)| panic!("cannot delete topic {topic}: {error}"));
        }
        let client = self.client();
        wait_for(&format!("the end of the topic {topic}"), PATIENCE, || {
            let metadata = client.fetch_metadata(None, ASK).ok()?;
            (!metadata.topics().iter().any(|found| found.name() == topic)).then_some(())
        });
    }

    /// Changes settings of a topic. All others that were set go back to their defaults.
    pub fn configure_topic(&self, topic: &str, configs: &[(&str, &str)]) {
        let mut altered = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in configs {
            altered = altered.set(name, value);
        }
        let results = block_on(self.admin().alter_configs([&altered], &admin_options()))
            .expect("Kafka did not answer the change of a topic");
        for result in results {
            result.unwrap_or_else(|(_, error)| panic!("cannot change topic {topic}: {error}"));
        }
    }

    /// Deletes the records of a partition below `before`, as retention would.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(topic, partition, Offset::Offset(before))
            .expect("an offset to delete to");
        let result = block_on(self.admin().delete_records(&offsets, &admin_options()))
            .expect("Kafka did not answer the deletion of records");
        for element in result.elements() {
            element.error().unwrap_or_else(|error| panic!("cannot delete records: {error}"));
        }
    }

    /// First offset and end of the log (the next offset to be written), by partition.
    pub fn watermarks(&self, topic: &str) -> BTreeMap<i32, (i64, i64)> {
        let client = self.client();
        let metadata = client.fetch_metadata(Some(topic), ASK).expect("metadata of a topic");
        let topic = metadata.topics().first().expect("a topic that was asked for");
        topic
            .partitions()
            .iter()
            .map(|partition| {
                let both = wait_for("watermarks of a partition", PATIENCE, || {
                    match client.fetch_watermarks(topic.name(), partition.id(), ASK) {
                        Ok(both) => Some(both),
                        Err(error) if error.rdkafka_error_code().is_some_and(is_of_new_leader) => {
                            None
                        }
                        Err(error) => panic!("cannot read the ends of a log: {error}"),
                    }
                });
                (partition.id(), both)
            })
            .collect()
    }

    /// What a consumer group has committed: the next offset, by partition; absent where nothing.
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let client: BaseConsumer =
            self.client_config().set("group.id", group).create().expect("a Kafka client");
        let mut asked = TopicPartitionList::new();
        for partition in self.watermarks(topic).keys() {
            asked.add_partition(topic, *partition);
        }
        let what = format!("the coordinator of the group {group}");
        let answer = wait_for(&what, PATIENCE, || {
            match client.committed_offsets(asked.clone(), ASK) {
                Ok(answer) => Some(answer),
                // The first question makes Kafka create the topic that the answer comes from.
                Err(error) if error.rdkafka_error_code().is_some_and(is_about_coordinator) => None,
                Err(error) => panic!("cannot read the offsets of the group {group}: {error}"),
            }
        });
        answer
            .elements()
            .iter()
            .filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            })
            .collect()
    }

    /// Reads a topic from its start to its present ends, committed records only, and gives the
    /// (partition, offset, payload) of every record.
    pub fn read_all(&self, topic: &str) -> Vec<(i32, i64, Option<Vec<u8>>)> {
        let mut records = Vec::new();
        self.read_each(topic, |message| {
            let payload = message.payload().map(<[u8]>::to_vec);
            records.push((message.partition(), message.offset(), payload));
        });
        records
    }

    /// [`Kafka::read_all`], and `each` sees the records.
    pub fn read_each(&self, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) {
        let consumer: BaseConsumer = self
            .client_config()
            .set("group.id", "unused")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a Kafka consumer");
        let mut assignment = TopicPartitionList::new();
        let mut open = self.watermarks(topic);
        for partition in open.keys() {
            assignment
                .add_partition_offset(topic, *partition, Offset::Beginning)
                .expect("a partition to read");
        }
        consumer.assign(&assignment).expect("an assignment");
        while !open.is_empty() {
            match consumer.poll(PATIENCE).expect("Kafka gave neither a record nor the end") {
                Ok(message) => each(&message),
                Err(KafkaError::PartitionEOF(partition)) => {
                    open.remove(&partition);
                }
                Err(error) => panic!("cannot read {topic}: {error}"),
            }
        }
    }
}

fn is_about_coordinator(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
    )
}

/// Not every broker has heard of a leader that is new, and it may not know yet how far it leads.
fn is_of_new_leader(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::OffsetNotAvailable)
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

fn java(dir: &Path) -> Command {
    let mut command = Command::new(parts::java());
    let log_settings = dir.join("log4j2.properties");
    command.arg(format!("-Dlog4j2.configurationFile={}", log_settings.display()));
    command.args(["-cp", &parts::kafka_classpath()]);
    command
}

fn server_properties(dir: &Path, port: u16, controller: u16, more: &[(&str, &str)]) -> String {
    let own = [
        ("process.roles", "broker,controller".into()),
        ("listeners", format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
        ("controller.listener.names", "CONTROLLER".into()),
        ("inter.broker.listener.name", "PLAINTEXT".into()),
        ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".into()),
        ("log.dirs", dir.join("data").display().to_string()),
        ("auto.create.topics.enable", "false".into()),
        ("group.initial.rebalance.delay.ms", "0".into()),
        ("group.min.session.timeout.ms", "1000".into()),
        ("offsets.topic.replication.factor", "1".into()),
        ("offsets.topic.num.partitions", "1".into()),
        ("transaction.state.log.replication.factor", "1".into()),
        ("transaction.state.log.min.isr", "1".into()),
        ("transaction.state.log.num.partitions", "1".into()),
        ("share.coordinator.state.topic.replication.factor", "1".into()),
        ("share.coordinator.state.topic.min.isr", "1".into()),
        ("share.coordinator.state.topic.num.partitions", "1".into()),
    ];
    let is_added = |name: &str| LISTS.contains(&name);
    let own = own.iter().map(|(name, value)| {
        let added = more.iter().filter(|(other, _)| is_added(name) && other == name);
        let added: String = added.map(|(_, value)| format!(",{value}")).collect();
        format!("{name}={value}{added}\n")
    });
    let more = more.iter().filter(|(name, _)| !is_added(name));
    own.chain(more.map(|(name, value)| format!("{name}={value}\n"))).collect()
}

/// Settings that are added to those made for tests, where others take their place.
const LISTS: [&str; 3] = ["listeners", "advertised.listeners", "listener.security.protocol.map"];

/// Runs one of Kafka's own tools to its end, which must be a good one.
pub fn run_tool(class: &str, arguments: &[&str]) {
    let dir = new_dir("tool");
    fs::write(dir.join("log4j2.properties"), LOG_SETTINGS).expect("cannot write log settings");
    let mut command = java(&dir);
    command.args(["-XX:TieredStopAtLevel=1", class]).args(arguments);
    process::output(class, command);
}

/// Settings of log4j: warnings and worse to the standard output.
pub const LOG_SETTINGS: &str = "status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c: %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
";
