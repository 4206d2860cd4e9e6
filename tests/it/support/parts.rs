//! Where `scripts/setup test` put the real parts. The names are made of the content of the files
//! that pin them, as in scripts/lib.sh, so that a test never runs a part of another version.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

const KAFKA: &[&str] = &[include_str!("../../../scripts/kafka/pom.xml")];
const REST_CATALOG: &[&str] = &[
    include_str!("../../../scripts/rest-catalog/pom.xml"),
    include_str!("../../../scripts/rest-catalog/RestCatalog.java"),
];
const SPARK: &[&str] = &[
    include_str!("../../../scripts/spark/pom.xml"),
    include_str!("../../../scripts/spark/SparkSql.java"),
];
const FLINK: &[&str] = &[
    include_str!("../../../scripts/flink/pom.xml"),
    include_str!("../../../scripts/flink/FlinkSql.java"),
];
const CONNECT: &[&str] = &[include_str!("../../../scripts/connect/pom.xml")];
const SEAWEEDFS: &[&str] = &[include_str!("../../../scripts/seaweedfs/requirements.txt")];
const PYTHON: &[&str] = &[
    include_str!("../../../scripts/requirements.txt"),
    include_str!("../../../scripts/constraints.txt"),
];

/// The class path of the Kafka broker.
pub fn kafka_classpath() -> String {
    format!("{}/jars/*", part("kafka", KAFKA).display())
}

/// The class path of the REST catalog.
pub fn rest_catalog_classpath() -> String {
    let dir = part("rest-catalog", REST_CATALOG);
    format!("{0}/classes:{0}/jars/*", dir.display())
}

/// The class path of Apache Spark with Iceberg's runtime.
pub fn spark_classpath() -> String {
    let dir = part("spark", SPARK);
    format!("{0}/classes:{0}/jars/*", dir.display())
}

/// The class path of Apache Flink with Iceberg's sink, which only `make bench-peers` has.
pub fn flink_classpath() -> String {
    let dir = part("flink", FLINK);
    format!("{0}/classes:{0}/jars/*", dir.display())
}

/// The class path of Kafka Connect with Iceberg's sink, which only `make bench-peers` has.
pub fn connect_classpath() -> String {
    format!("{}/jars/*", part("connect", CONNECT).display())
}

/// SeaweedFS, in one program.
pub fn seaweedfs() -> PathBuf {
    part("seaweedfs", SEAWEEDFS).join("weed")
}

/// A program of the Python environment, such as `python`.
pub fn python(program: &str) -> PathBuf {
    part("python", PYTHON).join("bin").join(program)
}

/// A JVM that is new enough for Kafka.
pub fn java() -> &'static Path {
    static JAVA: OnceLock<PathBuf> = OnceLock::new();
    JAVA.get_or_init(|| {
        let home = std::env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
        let installed = children("/usr/lib/jvm").into_iter().map(|home| home.join("bin/java"));
        home.into_iter()
            .chain([PathBuf::from("java")])
            .chain(installed)
            .find(|java| java_version(java).is_some_and(|version| version >= 17))
            .unwrap_or_else(|| missing("a JVM of version 17 or newer"))
    })
}

fn java_version(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split_once("version \"")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The directory of PostgreSQL's programs: the newest version that is installed.
pub fn postgres_bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let mut installed: Vec<_> = children("/usr/lib/postgresql")
            .into_iter()
            .map(|version| version.join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        installed.sort();
        let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
            std::env::split_paths(&path)
                .filter(|dir| dir.join("initdb").exists())
                .collect::<Vec<_>>()
        });
        installed
            .pop()
            .or_else(|| on_path.into_iter().next())
            .unwrap_or_else(|| missing("PostgreSQL's initdb"))
    })
}

/// PgBouncer: Debian puts it where only root's PATH leads.
pub fn pgbouncer() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = dirs.map(|dir| dir.join("pgbouncer")).find(|program| program.exists());
    found.unwrap_or_else(|| missing("PgBouncer"))
}

fn children(dir: &str) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn part(name: &str, pins: &[&str]) -> PathBuf {
    let cache = std::env::var_os("ICESTREAM_CACHE").map_or_else(
        || std::env::home_dir().unwrap_or_default().join(".cache/icestream"),
        PathBuf::from,
    );
    let mut hash = Sha256::new();
    for pin in pins {
        hash.update(pin);
    }
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = cache.join(format!("{name}-{hash}"));
    if !dir.is_dir() {
        missing(&dir.display().to_string());
    }
    dir
}

fn missing(what: &str) -> ! {
    panic!("{what} is missing: run `make test`, or `scripts/setup test` once before `cargo test`")
}
