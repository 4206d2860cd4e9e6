//! Brokers that are reached by TLS and after a login, by both fetchers: what lands, what is refused,
//! and that no password is ever shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::landing::{records, schema};
use crate::support::icestream::{Icestream, RUN};
use crate::support::kafka::{Kafka, run_tool};
use crate::support::oracle::assert_exactly_once;
use crate::support::process;
use crate::support::table::Lake;
use crate::support::{PATIENCE, free_port, new_dir, unique};

const USER: &str = "reader";
const PASSWORD: &str = "hunter2-of-the-reader";
const FETCHERS: [&str; 2] = ["icestream", "librdkafka"];
const COMMITTED: &str = "icestream_committed_records_total";
/// After so long a login on the listener for that must be made again.
const SESSION: Duration = Duration::from_secs(2);

/// A listener: its name, its protocol, the host by which it is known, and whose certificate it shows.
struct Listener(&'static str, &'static str, &'static str, &'static str);

const LISTENERS: [Listener; 7] = [
    Listener("TLS", "SSL", "127.0.0.1", "broker"),
    Listener("MUTUAL", "SSL", "127.0.0.1", "broker"),
    Listener("SUBJECT", "SSL", "localhost", "subject"),
    Listener("OTHER", "SSL", "localhost", "other"),
    Listener("LOGIN", "SASL_PLAINTEXT", "127.0.0.1", "broker"),
    Listener("BOTH", "SASL_SSL", "localhost", "broker"),
    Listener("SHORT", "SASL_SSL", "127.0.0.1", "broker"),
];

/// A broker with those listeners, and the files for its clients.
struct Secure {
    kafka: Kafka,
    ports: Vec<u16>,
    files: PathBuf,
}

impl Secure {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Secure> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let files = new_dir("certificates");
        make_certificates(&files);
        let ports: Vec<u16> = LISTENERS.iter().map(|_| free_port()).collect();
        let settings = broker_settings(&files, &ports);
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let kafka = Kafka::with_config(&settings);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let added = format!("{mechanism}=[iterations=8192,password={PASSWORD}]");
            let brokers = kafka.brokers();
            let arguments = ["--bootstrap-server", &brokers, "--alter", "--add-config", &added];
            let entity = ["--entity-type", "users", "--entity-name", USER];
            run_tool("kafka.admin.ConfigCommand", &[&arguments[..], &entity[..]].concat());
        }
        Self { kafka, ports, files }
    }

    fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }

    /// A pipeline on a new topic, which trusts the brokers' authority.
    fn pipeline(&self, lake: &Lake) -> Pipeline {
        let topic = unique("secure");
        self.kafka.create_topic(&topic, 3, &[]);
        let icestream = Icestream::new(&self.kafka, &topic, lake, &format!("db.{topic}"));
        let icestream =
            icestream.schema(&schema()).set("KAFKA_SSL_CA_LOCATION", self.file("ca.pem"));
        Pipeline { icestream, topic }
    }

    /// The same by another listener.
    fn through(&self, icestream: &Icestream, name: &str) -> Icestream {
        let found = LISTENERS.iter().zip(&self.ports).find(|(listener, _)| listener.0 == name);
        let (Listener(_, protocol, host, _), port) = found.expect("a listener of that name");
        icestream
            .clone()
            .set("KAFKA_BROKERS", format!("{host}:{port}"))
            .set("KAFKA_SECURITY_PROTOCOL", protocol.to_lowercase())
    }
}

struct Pipeline {
    icestream: Icestream,
    topic: String,
}

fn logged_in(icestream: &Icestream, mechanism: &str) -> Icestream {
    icestream
        .clone()
        .set("KAFKA_SASL_MECHANISM", mechanism)
        .set("KAFKA_SASL_USERNAME", USER)
        .set("KAFKA_SASL_PASSWORD", PASSWORD)
}

fn broker_settings(files: &Path, ports: &[u16]) -> Vec<(String, String)> {
    let file = |name: &str| files.join(name).display().to_string();
    let each = |of: &dyn Fn(&Listener, u16) -> String| {
        let all = LISTENERS.iter().zip(ports).map(|(listener, port)| of(listener, *port));
        all.collect::<Vec<_>>().join(",")
    };
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"
    );
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let mut settings = vec![
        ("listeners".into(), each(&|listener, port| format!("{}://127.0.0.1:{port}", listener.0))),
        (
            "advertised.listeners".into(),
            each(&|listener, port| format!("{}://{}:{port}", listener.0, listener.2)),
        ),
        (
            "listener.security.protocol.map".into(),
            each(&|listener, _| format!("{}:{}", listener.0, listener.1)),
        ),
        ("sasl.enabled.mechanisms".into(), "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".into()),
        ("listener.name.mutual.ssl.client.auth".into(), "required".into()),
        (
            "listener.name.short.scram-sha-256.connections.max.reauth.ms".into(),
            SESSION.as_millis().to_string(),
        ),
        ("ssl.truststore.type".into(), "PEM".into()),
        ("ssl.truststore.location".into(), file("ca.pem")),
    ];
    for Listener(name, _, _, certificate) in LISTENERS {
        let prefix = format!("listener.name.{}", name.to_lowercase());
        settings.push((format!("{prefix}.ssl.keystore.type"), "PEM".into()));
        settings.push((
            format!("{prefix}.ssl.keystore.location"),
            file(&format!("{certificate}.both.pem")),
        ));
        for (mechanism, module) in
            [("plain", plain.as_str()), ("scram-sha-256", scram), ("scram-sha-512", scram)]
        {
            settings.push((format!("{prefix}.{mechanism}.sasl.jaas.config"), module.into()));
        }
    }
    settings
}

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir);
    process::output("openssl", command);
}

/// Two authorities, certificates of the first one for brokers and clients, and keys in each form.
fn make_certificates(dir: &Path) {
    const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "stranger"] {
        openssl(
            dir,
            &format!(
                "req -x509 {EC} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
            ),
        );
    }
    let certificates = [
        ("broker", "/CN=broker", "subjectAltName=DNS:localhost,IP:127.0.0.1", EC),
        // Named by its subject alone, as certificates were long ago.
        ("subject", "/CN=localhost", "keyUsage=digitalSignature", EC),
        ("other", "/CN=other", "subjectAltName=DNS:other.example", EC),
        ("client", "/CN=client", "extendedKeyUsage=clientAuth", EC),
        ("client-rsa", "/CN=client", "extendedKeyUsage=clientAuth", "-newkey rsa:2048 -nodes"),
    ];
    for (name, subject, extension, key) in certificates {
        fs::write(dir.join("extension"), format!("{extension}\n")).unwrap();
        openssl(dir, &format!("req -new {key} -subj {subject} -keyout {name}.key -out {name}.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile extension -out {name}.pem"
            ),
        );
        openssl(dir, &format!("pkey -in {name}.key -traditional -out {name}.old.key"));
        let both = [format!("{name}.key"), format!("{name}.pem")]
            .map(|file| fs::read_to_string(dir.join(file)).unwrap());
        fs::write(dir.join(format!("{name}.both.pem")), both.concat()).unwrap();
    }
    let hashed = dir.join("authorities");
    fs::create_dir(&hashed).unwrap();
    fs::copy(dir.join("ca.pem"), hashed.join("ca.pem")).unwrap();
    openssl(dir, "rehash authorities");
}

#[test]
fn every_record_lands_once_over_every_protocol_and_login_by_both_fetchers() {
    let secure = Secure::shared();
    let lake = Lake::sqlite();
    let Pipeline { icestream, topic } = secure.pipeline(&lake);
    let tls = secure.through(&icestream, "TLS");
    let shows = |certificate: &str, key: &str| {
        secure
            .through(&icestream, "MUTUAL")
            .set("KAFKA_SSL_CERTIFICATE_LOCATION", secure.file(certificate))
            .set("KAFKA_SSL_KEY_LOCATION", secure.file(key))
    };
    let (login, both) = (secure.through(&icestream, "LOGIN"), secure.through(&icestream, "BOTH"));
    let cases = [
        ("TLS", tls.clone()),
        (
            "authorities in a directory",
            tls.set("KAFKA_SSL_CA_LOCATION", secure.file("authorities")),
        ),
        ("a key in PKCS#8", shows("client.pem", "client.key")),
        ("a key in SEC1", shows("client.pem", "client.old.key")),
        ("a key in PKCS#1", shows("client-rsa.pem", "client-rsa.old.key")),
        ("PLAIN", logged_in(&login, "PLAIN")),
        ("SCRAM-SHA-256", logged_in(&login, "SCRAM-SHA-256")),
        ("SCRAM-SHA-512", logged_in(&login, "SCRAM-SHA-512")),
        ("TLS and PLAIN", logged_in(&both, "PLAIN")),
        ("TLS and SCRAM-SHA-512", logged_in(&both, "SCRAM-SHA-512")),
    ];
    let mut all = Vec::new();
    for (name, icestream) in cases {
        for fetcher in FETCHERS {
            println!("{name}, by {fetcher}");
            let from = all.len() as i64 * 3000;
            all.push(secure.kafka.produce(&topic, records(3, from..from + 3000)));
            let icestream = icestream.clone().set("KAFKA_FETCHER", fetcher);
            let exit = icestream.run_until_caught_up();
            let checked = icestream.command(&["check"]).success().stdout;
            assert!(checked.contains("PASS  access"), "{checked}");
            assert!(!exit.log.contains("cannot fetch"), "{}", exit.log);
            assert!(!exit.log.contains(PASSWORD), "{}", exit.log);
        }
    }
    // A record that one run left out would stay out: the ledger is past it.
    let landed: Vec<_> = all.iter().collect();
    assert_exactly_once(&lake.table(&format!("db.{topic}")), &landed);
}

#[test]
fn a_session_that_ends_is_followed_by_another_without_a_failure() {
    let secure = Secure::shared();
    let lake = Lake::sqlite();
    for fetcher in FETCHERS {
        let Pipeline { icestream, topic } = secure.pipeline(&lake);
        let icestream = logged_in(&secure.through(&icestream, "SHORT"), "SCRAM-SHA-256");
        let mut running = icestream.set("KAFKA_FETCHER", fetcher).run();
        let (start, mut all) = (Instant::now(), Vec::new());
        while start.elapsed() < SESSION * 4 {
            let from = all.len() as i64 * 300;
            all.push(secure.kafka.produce(&topic, records(3, from..from + 300)));
            running.wait_count(COMMITTED, &[], (from + 300) as f64);
        }
        let exit = running.stop(PATIENCE).success();
        assert!(!exit.log.contains("cannot fetch"), "{}", exit.log);
        assert!(!exit.log.contains(" WARN "), "{}", exit.log);
        let landed: Vec<_> = all.iter().collect();
        assert_exactly_once(&lake.table(&format!("db.{topic}")), &landed);
    }
}

#[test]
fn a_broker_that_lets_nobody_in_or_is_not_to_be_trusted_is_the_same_error_by_both_fetchers() {
    let secure = Secure::shared();
    let lake = Lake::sqlite();
    let Pipeline { icestream, .. } = secure.pipeline(&lake);
    let icestream = icestream.set("RETRY_GIVE_UP_MS", "3000");
    let login = logged_in(&secure.through(&icestream, "LOGIN"), "SCRAM-SHA-256");
    let stranger = secure.file("stranger.pem");
    let cases = [
        ("a wrong password", login.set("KAFKA_SASL_PASSWORD", format!("{PASSWORD}-not"))),
        (
            "an unknown authority",
            secure.through(&icestream, "TLS").set("KAFKA_SSL_CA_LOCATION", stranger),
        ),
        ("another host's name", secure.through(&icestream, "OTHER")),
        ("no certificate to show", secure.through(&icestream, "MUTUAL")),
    ];
    // At once: each takes its time to give up.
    let mut all = Vec::new();
    for (name, icestream) in cases {
        for fetcher in FETCHERS {
            let process = icestream.member().set("KAFKA_FETCHER", fetcher);
            all.push((name, fetcher, process.start(&["run", "--until-caught-up"])));
        }
    }
    for (name, fetcher, mut running) in all {
        println!("{name}, by {fetcher}");
        let exit = running.wait(RUN).with_code(5);
        let output = format!("{}{}", exit.stdout, exit.log);
        assert!(output.contains("did not answer"), "{output}");
        assert!(!output.contains(PASSWORD), "{output}");
    }
}

#[test]
fn a_certificate_that_icestream_does_not_take_ends_the_process_with_the_way_out_told() {
    let secure = Secure::shared();
    let lake = Lake::sqlite();
    let Pipeline { icestream, topic } = secure.pipeline(&lake);
    let icestream = secure.through(&icestream, "SUBJECT");
    let produced = secure.kafka.produce(&topic, records(3, 0..300));
    // It is found before anything runs, and the client that knows the cluster finds nothing.
    let checked = icestream.command(&["check"]).with_code(1).stdout;
    let line = checked.lines().find(|line| line.starts_with("FAIL")).unwrap();
    for said in
        ["FAIL  access", "localhost:", "invalid peer certificate", "KAFKA_FETCHER=librdkafka"]
    {
        assert!(line.contains(said), "{said:?} is not in: {checked}");
    }
    assert!(checked.contains("PASS  kafka") && checked.contains("1 failed"), "{checked}");
    icestream.clone().set("KAFKA_FETCHER", "librdkafka").command(&["check"]).success();
    let mut running = icestream.run();
    running.wait_log("cannot fetch; trying again", PATIENCE);
    let log = running.log();
    let line = log.lines().find(|line| line.contains("cannot fetch; trying again")).unwrap();
    for said in ["localhost:", "invalid peer certificate", "KAFKA_FETCHER=librdkafka"] {
        assert!(line.contains(said), "{line}");
    }
    let exit = running.wait(RUN).with_code(3);
    assert!(exit.log.contains("cannot fetch from the broker at localhost:"), "{}", exit.log);
    icestream.set("KAFKA_FETCHER", "librdkafka").run_until_caught_up();
    assert_exactly_once(&lake.table(&format!("db.{topic}")), &[&produced]);
}

#[test]
fn files_that_cannot_be_used_end_the_process_with_their_names() {
    let secure = Secure::shared();
    let lake = Lake::sqlite();
    let Pipeline { icestream, .. } = secure.pipeline(&lake);
    let icestream = secure
        .through(&icestream, "MUTUAL")
        .set("KAFKA_SSL_CERTIFICATE_LOCATION", secure.file("client.pem"))
        .set("KAFKA_SSL_KEY_LOCATION", secure.file("client-rsa.key"));
    for fetcher in FETCHERS {
        let icestream = icestream.clone().set("KAFKA_FETCHER", fetcher);
        let exit = icestream.command(&["run", "--until-caught-up"]).with_code(3);
        assert!(exit.log.contains("KAFKA_SSL_*") || exit.log.contains("KAFKA_*"), "{}", exit.log);
    }
}
