//! How often a broker that has no leader to tell is asked for one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, MetadataResponse, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{
    Encodable, HeaderVersion, StrBytes, decode_request_header_from_buffer,
};

use crate::base::secret::Properties;
use crate::protocol::TopicPartition;
use crate::source::{FetchBy, Share, Source, SourceSettings, Topics};

const TOPIC: &str = "orders";
const METADATA: i16 = 3;
const VERSIONS: i16 = 18;
/// The only version of the former that is spoken.
const SPOKEN: i16 = 5;
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that tells who leads the one partition of a topic, and nothing else.
struct Broker {
    port: u16,
    /// -1 for nobody.
    leader: AtomicI32,
    /// Questions for leaders.
    asked: AtomicUsize,
    /// Other requests: somebody wants records.
    other: AtomicUsize,
}

impl Broker {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, other) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let broker = Arc::new(Self { port, leader: AtomicI32::new(-1), asked, other });
        let own = broker.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                // Ends with the connection.
                std::thread::spawn(move || while own.exchange(&stream).is_some() {});
            }
        });
        broker
    }

    fn exchange(&self, mut stream: &TcpStream) -> Option<()> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut request).ok()?;
        let header = decode_request_header_from_buffer(&mut Bytes::from(request)).unwrap();
        let (api, version) = (header.request_api_key, header.request_api_version);
        let id = ResponseHeader::default().with_correlation_id(header.correlation_id);
        let mut answer = BytesMut::new();
        match api {
            VERSIONS => {
                id.encode(&mut answer, ApiVersionsResponse::header_version(version)).unwrap();
                versions().encode(&mut answer, version).unwrap();
            }
            METADATA => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                id.encode(&mut answer, MetadataResponse::header_version(version)).unwrap();
                self.metadata().encode(&mut answer, version).unwrap();
            }
            _ => {
                self.other.fetch_add(1, Ordering::SeqCst);
                return None;
            }
        }
        stream.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes()).ok()?;
        stream.write_all(&answer).ok()
    }

    fn metadata(&self) -> MetadataResponse {
        let leader = self.leader.load(Ordering::SeqCst);
        let partition = MetadataResponsePartition::default()
            // LEADER_NOT_AVAILABLE.
            .with_error_code(if leader < 0 { 5 } else { 0 })
            .with_leader_id(BrokerId(leader))
            .with_replica_nodes(vec![BrokerId(1)])
            .with_isr_nodes(vec![BrokerId(1)]);
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
            .with_partitions(vec![partition]);
        let broker = MetadataResponseBroker::default()
            .with_node_id(BrokerId(1))
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into());
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str("alone")))
            .with_controller_id(BrokerId(1))
            .with_topics(vec![topic])
    }
}

fn versions() -> ApiVersionsResponse {
    let api = |key, least, most| {
        ApiVersion::default().with_api_key(key).with_min_version(least).with_max_version(most)
    };
    let apis = vec![api(1, 11, 12), api(METADATA, SPOKEN, SPOKEN), api(VERSIONS, 0, 3)];
    ApiVersionsResponse::default().with_api_keys(apis)
}

#[test]
fn a_partition_without_a_leader_costs_its_cluster_a_question_now_and_then_and_is_found_soon() {
    let broker = Broker::start();
    let source = Source::connect(SourceSettings {
        brokers: format!("127.0.0.1:{}", broker.port),
        topics: Topics::new([TOPIC]),
        group_id: String::from("asking"),
        group: None,
        properties: Properties::default(),
        fetch_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        batch_bytes: 1 << 30,
        queue_messages: 1000,
        fetch_by: FetchBy::Icestream,
        offsets: Arc::default(),
    });
    let source = source.unwrap();
    let _queues = source.queues(1);
    source.partitions(PATIENCE).unwrap();
    source
        .assign(&[Share { tp: TopicPartition::new(TOPIC, 0), start: 0, epoch: None, shard: 0 }])
        .unwrap();
    let serve_until = |until: &dyn Fn(Duration) -> bool| {
        let begun = Instant::now();
        while !until(begun.elapsed()) {
            assert!(begun.elapsed() < PATIENCE, "in vain");
            source.serve(Duration::from_millis(20)).unwrap();
        }
        begun.elapsed()
    };
    let before = broker.asked.load(Ordering::SeqCst);
    serve_until(&|elapsed| elapsed > Duration::from_secs(6));
    // Ten a second would be sixty. librdkafka asks, too, about once a second.
    let asked = broker.asked.load(Ordering::SeqCst) - before;
    assert!((4..30).contains(&asked), "{asked} questions");
    broker.leader.store(1, Ordering::SeqCst);
    let took = serve_until(&|_| broker.other.load(Ordering::SeqCst) > 0);
    println!("{asked} questions; found after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
