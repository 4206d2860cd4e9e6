//! The one table of all settings. It drives validation, unknown-name suggestions and
//! `docs/settings.md`.

use super::kind::Kind;
use super::setting::{NONE, REQUIRED, SettingDoc, aliased, secret, setting};

/// A day: no wait of this program is longer.
const DAY_MS: u64 = 86_400_000;

const ANY: Kind = Kind::Text("any text");

/// Every setting, in the order of `docs/settings.md`.
pub(crate) const SETTINGS: &[SettingDoc] = &[
    setting(
        "KAFKA_BROKERS",
        "kafka.brokers",
        REQUIRED,
        Kind::Text("`host:port`, several with commas; port 9092 where it is left away"),
        "Brokers from which the cluster is found.",
    ),
    setting(
        "KAFKA_TOPIC",
        "kafka.topic",
        REQUIRED,
        Kind::Text("1 to 249 letters, digits, `.`, `_` or `-`"),
        "Topic to read. It must exist.",
    ),
    setting(
        "KAFKA_GROUP_ID",
        "kafka.group_id",
        REQUIRED,
        Kind::Text("1 to 249 letters, digits, `.`, `_` or `-`"),
        "Name of the pipeline and of its consumer group. The table keeps its ledger under this \
         name: another name is another pipeline, which reads the topic from its start.",
    ),
    setting(
        "KAFKA_ASSIGNMENT",
        "kafka.assignment",
        "`group`",
        Kind::OneOf(&["group", "all"]),
        "Who decides which partitions this process reads. `group`: the consumer group shares them \
         out among all processes of the pipeline, cooperatively. `all`: this process reads them \
         all, for a cluster whose groups it may not use.",
    ),
    setting(
        "KAFKA_GROUP_INSTANCE_ID",
        "kafka.group_instance_id",
        "made once and kept in `CHECKPOINT_DIR`",
        Kind::Text("1 to 249 letters, digits, `.`, `_` or `-`"),
        "Name of this process in its consumer group (static membership): a process that comes back \
         under its name within `KAFKA_SESSION_TIMEOUT_MS` gets its partitions back at once, and no other \
         process notices. Different for each process; the name of a stateful pod is a good one.",
    ),
    setting(
        "KAFKA_SESSION_TIMEOUT_MS",
        "kafka.session_timeout_ms",
        "`45000`",
        Kind::Integer { min: 1000, max: 1_800_000 },
        "How long the group waits for a sign of life of a process before it gives its partitions to \
         others. The brokers bound it, too (`group.min.session.timeout.ms`).",
    ),
    setting(
        "KAFKA_REVOCATION_TIMEOUT_MS",
        "kafka.revocation_timeout_ms",
        "`30000`",
        Kind::Integer { min: 0, max: 240_000 },
        "How long partitions that the group takes away may take to be sealed and committed. After \
         that they are let go, and what was not committed is read again by their next owner.",
    ),
    setting(
        "KAFKA_AUTO_OFFSET_RESET",
        "kafka.auto_offset_reset",
        "`earliest`",
        Kind::OneOf(&["earliest", "latest"]),
        "Where a partition begins that the ledger does not have. Never used for one that it has.",
    ),
    setting(
        "KAFKA_FETCHER",
        "kafka.fetcher",
        "`auto`",
        Kind::OneOf(&["auto", "icestream", "librdkafka"]),
        "Who fetches records: `icestream` with code of its own, at about three quarters of the CPU, or \
         `librdkafka`. `auto` is `icestream`, unless `[kafka.properties]` sets something that \
         fetching depends on, `KAFKA_SSL_KEY_PASSWORD` is set, or a broker is too old when the process \
         starts (before Kafka 2.3; Azure Event Hubs). `icestream` takes a broker's \
         certificate only if that names the host as a subject alternative name, and is not the \
         authority itself.",
    ),
    setting(
        "KAFKA_SECURITY_PROTOCOL",
        "kafka.security_protocol",
        "`plaintext`",
        Kind::OneOf(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
        "How to talk to the brokers.",
    ),
    setting(
        "KAFKA_SASL_MECHANISM",
        "kafka.sasl_mechanism",
        "none; required with `sasl_plaintext` and `sasl_ssl`",
        Kind::OneOf(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
        "How to log in.",
    ),
    setting("KAFKA_SASL_USERNAME", "kafka.sasl_username", NONE, ANY, "User to log in as."),
    secret("KAFKA_SASL_PASSWORD", "kafka.sasl_password", ANY, "Password of that user."),
    setting(
        "KAFKA_SSL_CA_LOCATION",
        "kafka.ssl_ca_location",
        "none: the authorities that the system trusts",
        Kind::ExistingPath,
        "PEM file, or directory, of the authorities that signed the brokers' certificates.",
    ),
    setting(
        "KAFKA_SSL_CERTIFICATE_LOCATION",
        "kafka.ssl_certificate_location",
        NONE,
        Kind::ExistingPath,
        "PEM file of the certificate shown to the brokers.",
    ),
    setting(
        "KAFKA_SSL_KEY_LOCATION",
        "kafka.ssl_key_location",
        NONE,
        Kind::ExistingPath,
        "PEM file of the key of that certificate.",
    ),
    secret("KAFKA_SSL_KEY_PASSWORD", "kafka.ssl_key_password", ANY, "Password of that key."),
    setting(
        "ICEBERG_CATALOG_TYPE",
        "iceberg.catalog_type",
        "`sql`",
        Kind::OneOf(&["sql", "rest"]),
        "Kind of catalog: `sql` is a SQLite file or a PostgreSQL database, `rest` a server that \
         speaks Iceberg's REST protocol.",
    ),
    setting(
        "ICEBERG_CATALOG_NAME",
        "iceberg.catalog_name",
        "`icestream`",
        Kind::Text("1 to 255 characters"),
        "Name of the catalog. A SQL catalog keeps its tables under it: readers must use the same.",
    ),
    setting(
        "ICEBERG_CATALOG_URI",
        "iceberg.catalog_uri",
        "`sqlite://icestream-data/catalog.db` with `sql`, required with `rest`",
        Kind::Text(
            "`sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE` with `sql`; `http://` or \
             `https://` with `rest`",
        ),
        "Where the catalog is. A password in it is never shown. PostgreSQL is reached with TLS if it offers \
         that, and its certificate is not looked at: `?sslmode=verify-full&sslrootcert=/path/ca.pem` does \
         both, `sslmode=require` the first alone. A PgBouncer may stand between, in any pool mode.",
    ),
    setting(
        "ICEBERG_WAREHOUSE",
        "iceberg.warehouse",
        "`icestream-data/warehouse` with SQLite, required with PostgreSQL, none with `rest`",
        Kind::Text(
            "a directory, `file://` or `s3://BUCKET/PREFIX`; with `rest` as the server expects it",
        ),
        "Where the tables' files are. With `rest`, the name by which the server knows it.",
    ),
    setting(
        "ICEBERG_TABLE",
        "iceberg.table",
        REQUIRED,
        Kind::Text("`namespace.table`, without empty parts"),
        "Table to write. An existing one is written as it is. A namespace may have several levels \
         (`a.b.table`); a name with a dot in it stands in backticks (``db.`orders.v1` ``).",
    ),
    setting(
        "ICEBERG_TABLE_SCHEMA",
        "iceberg.table_schema",
        NONE,
        Kind::ExistingPath,
        "Iceberg schema as JSON, used to create the table when it is absent.",
    ),
    setting(
        "ICEBERG_PARTITION_SPEC",
        "iceberg.partition_spec",
        "none: not partitioned",
        Kind::Text("transforms of columns, like `day(ts), bucket[16](user_id)`"),
        "How the table is partitioned when it is created.",
    ),
    setting(
        "ICEBERG_TABLE_PROPERTIES",
        "iceberg.table_properties",
        "none",
        Kind::Text(
            "`name=value`, several with commas; of `icestream.` only `icestream.maintained`",
        ),
        "Properties of the table when it is created. docs/table-properties.md has those that \
         icestream follows, and those that it sets beside them unless these have \
         `icestream.maintained=false`.",
    ),
    setting(
        "ICEBERG_KAFKA_COLUMNS",
        "iceberg.kafka_columns",
        "`true`",
        Kind::Bool,
        "Add `_kafka_topic`, `_kafka_partition`, `_kafka_offset` and `_kafka_timestamp` to a table \
         that is created. A table that has them gets them filled in any case.",
    ),
    secret(
        "ICEBERG_REST_CREDENTIAL",
        "iceberg.rest.credential",
        Kind::Text("`client-id:client-secret`"),
        "Exchanged for a token by OAuth2, renewed before it expires.",
    ),
    secret(
        "ICEBERG_REST_TOKEN",
        "iceberg.rest.token",
        ANY,
        "A fixed bearer token, in place of a credential.",
    ),
    setting(
        "ICEBERG_REST_SCOPE",
        "iceberg.rest.scope",
        "`catalog`",
        ANY,
        "Scope to ask a token for; `none` sends none, which some identity providers want.",
    ),
    setting("ICEBERG_REST_AUDIENCE", "iceberg.rest.audience", NONE, ANY, "Audience of the token."),
    setting("ICEBERG_REST_RESOURCE", "iceberg.rest.resource", NONE, ANY, "Resource of the token."),
    setting(
        "ICEBERG_REST_OAUTH2_SERVER_URI",
        "iceberg.rest.oauth2_server_uri",
        "none: the catalog's own token endpoint",
        Kind::Text("`http://` or `https://`"),
        "Where a token is asked for.",
    ),
    setting(
        "ICEBERG_REST_CA_FILE",
        "iceberg.rest.ca_file",
        NONE,
        Kind::ExistingPath,
        "PEM file of authorities that are trusted beside those of the system, for the certificates of the \
         catalog and of where a token is asked for.",
    ),
    SettingDoc {
        name: "AWS_ACCESS_KEY_ID",
        alias: None,
        key: "s3.access_key_id",
        meaning: "Key id for S3, with its secret.",
        default: "none: the usual AWS profile, web identity or instance role",
        kind: ANY,
        secret: true,
    },
    secret("AWS_SECRET_ACCESS_KEY", "s3.secret_access_key", ANY, "Secret of that key."),
    secret("AWS_SESSION_TOKEN", "s3.session_token", ANY, "Session token of a temporary key."),
    aliased(
        setting(
            "AWS_REGION",
            "s3.region",
            "none; `us-east-1` with an endpoint",
            ANY,
            "Region of the bucket.",
        ),
        "AWS_DEFAULT_REGION",
    ),
    aliased(
        setting(
            "AWS_ENDPOINT_URL_S3",
            "s3.endpoint",
            "none: Amazon's",
            Kind::Text("`http://` or `https://`"),
            "Endpoint of an S3 store that is not Amazon's.",
        ),
        "AWS_ENDPOINT_URL",
    ),
    setting(
        "S3_PATH_STYLE_ACCESS",
        "s3.path_style_access",
        "none; `true` with an endpoint",
        Kind::Bool,
        "Address a bucket by path and not by host name, as most stores that are not Amazon's want.",
    ),
    setting(
        "S3_CA_FILE",
        "s3.ca_file",
        NONE,
        Kind::ExistingPath,
        "PEM file of authorities that are trusted beside those of the system, for the store's certificate.",
    ),
    setting(
        "S3_SSE_TYPE",
        "s3.sse_type",
        "none: as the bucket says",
        Kind::OneOf(&["none", "s3", "kms", "custom"]),
        "Encryption at the store that is asked for with each object, as `s3.sse.type` of Iceberg: `s3` by its \
         own keys, `kms` by one of a key service, `custom` by the key that is given.",
    ),
    secret(
        "S3_SSE_KEY",
        "s3.sse_key",
        Kind::Text("with `kms` the id of a key, with `custom` 256 bits in base64"),
        "Key of that encryption; `kms` without one takes the bucket's.",
    ),
    secret(
        "S3_SSE_KEY_MD5",
        "s3.sse_key_md5",
        Kind::Text("128 bits in base64"),
        "MD5 of that key, which `custom` wants, too.",
    ),
    setting(
        "CHECKPOINT_INTERVAL_MS",
        "checkpoint.interval_ms",
        "60000",
        Kind::Integer { min: 100, max: DAY_MS },
        "Time from one checkpoint's start to the next one's. Rows are visible after at most about this time.",
    ),
    setting(
        "CHECKPOINT_TIMEOUT_MS",
        "checkpoint.timeout_ms",
        "600000",
        Kind::Integer { min: 1_000, max: DAY_MS },
        "How long the shards may take to seal an epoch before the process restarts from the ledger.",
    ),
    setting(
        "CHECKPOINT_MIN_PAUSE_MS",
        "checkpoint.min_pause_ms",
        "500",
        Kind::Integer { min: 0, max: DAY_MS },
        "Least time between the end of a checkpoint and the start of the next.",
    ),
    setting(
        "CHECKPOINT_MAX_BYTES",
        "checkpoint.max_bytes",
        "1073741824",
        Kind::Integer { min: 1_048_576, max: 1 << 50 },
        "Bytes of records read since the last checkpoint that start one early.",
    ),
    setting(
        "CHECKPOINT_MAX_RECORDS",
        "checkpoint.max_records",
        "50000000",
        Kind::Integer { min: 1, max: 1 << 50 },
        "Records read since the last checkpoint that start one early.",
    ),
    setting(
        "CHECKPOINT_TOLERABLE_FAILED_CHECKPOINTS",
        "checkpoint.tolerable_failed_checkpoints",
        "30",
        Kind::Integer { min: 0, max: 1_000_000 },
        "Checkpoints in a row that may fail before they are prepared (timed out, or a store or \
         broker failed): each is dropped and its records are read again from the ledger. One more \
         ends the process with exit code 8. A checkpoint that completes begins the count anew.",
    ),
    setting(
        "CHECKPOINT_RETAINED",
        "checkpoint.retained",
        "10",
        Kind::Integer { min: 1, max: 10_000 },
        "Finished checkpoints kept for `icestream checkpoints`.",
    ),
    setting(
        "CHECKPOINT_DIR",
        "checkpoint.dir",
        "`icestream-data/checkpoints`",
        Kind::Text("path of a directory, made when it is absent"),
        "Where RocksDB keeps the checkpoints: one process a directory. Losing it is harmless.",
    ),
    setting(
        "PARALLELISM",
        "parallelism",
        "`auto`",
        Kind::IntegerOr { word: "auto", min: 1, max: 256 },
        "Shards: threads that read, decode and write. `auto` is one a processor. Never more than \
         one for each 16 MiB of `MEMORY_LIMIT_MB` above the first 72.",
    ),
    setting(
        "BATCH_SIZE",
        "write.batch_size",
        "8192",
        Kind::Integer { min: 1, max: 1_048_576 },
        "Rows that are decoded into one Arrow batch, which ends before that at 1 MiB.",
    ),
    setting(
        "BATCH_TIMEOUT_SECONDS",
        "write.batch_timeout_seconds",
        "1",
        Kind::Number { min: 0.01, max: 3_600.0 },
        "How long a batch that is not full waits for more records.",
    ),
    setting(
        "TARGET_FILE_SIZE_MB",
        "write.target_file_size_mb",
        "128",
        Kind::Integer { min: 1, max: 8_192 },
        "MiB at which a data file is closed and the next one begun. A checkpoint closes it in any case.",
    ),
    setting(
        "MEMORY_LIMIT_MB",
        "memory_limit_mb",
        "`auto`",
        Kind::IntegerOr { word: "auto", min: 128, max: 1_048_576 },
        "MiB of resident memory that the process stays below. `auto` is 1024, or three quarters of what \
         the control group of the process (its container) allows, if that is less. Queues, batches and open files are \
         sized by it; an answer of a broker that takes more than twelve times its size when it is \
         unpacked (packed tightly, or of tiny records), records larger than a share, and a table \
         with very large metadata or many columns come on top (0.1 MiB a column and shard).",
    ),
    setting(
        "BAD_RECORDS",
        "bad_records",
        "`fail`",
        Kind::OneOf(&["fail", "skip"]),
        "What becomes of a record that cannot be a row: `fail` stops and names it, `skip` leaves \
         it out and counts it.",
    ),
    setting(
        "BAD_RECORD_VALUES",
        "bad_record_values",
        "`show`",
        Kind::OneOf(&["show", "hide"]),
        "Does a message about a bad record show what was found in it? `show`: at most 64 bytes. `hide`: \
         nothing of it, for data that must not be in logs; offset, column and what was expected are.",
    ),
    setting(
        "MAINTENANCE_EXPIRE_SNAPSHOTS",
        "maintenance.expire_snapshots",
        "none; what the table says (`icestream.maintained`, `true` in tables that icestream makes)",
        Kind::Bool,
        "Take old snapshots out of the table along with the commits, and delete the files that only \
         they had: `true` of any table, `false` of none. Which are old is for the table to say: \
         `history.expire.max-snapshot-age-ms`, `history.expire.min-snapshots-to-keep`, and the retention of \
         branches and tags. Let one program expire: `false` where another does.",
    ),
    setting(
        "HTTP_LISTEN",
        "http.listen",
        "`127.0.0.1:9464`",
        Kind::Text("`ADDRESS:PORT`, `:PORT` for all addresses, or `off`"),
        "Where `/metrics`, `/healthz` and `/readyz` are served. `:PORT` and `[::]:PORT` are all addresses of \
         IPv6 and IPv4. Port 0 takes any free port, which the log names; so does the default where another \
         process has its port, as a second icestream on a machine finds it.",
    ),
    setting(
        "LOG_LEVEL",
        "log.level",
        "`info`",
        Kind::Text(
            "`error`, `warn`, `info`, `debug`, `trace`, `off`, or directives like `info,icestream::table=debug`",
        ),
        "Which log lines are written.",
    ),
    setting(
        "LOG_FORMAT",
        "log.format",
        "`text`",
        Kind::OneOf(&["text", "json"]),
        "How log lines are written to standard error.",
    ),
    setting(
        "RESTART_STRATEGY",
        "restart.strategy",
        "`exponential-delay`",
        Kind::OneOf(&["exponential-delay", "failure-rate", "fixed-delay", "none"]),
        "What follows a failure that may pass: another run from the ledger, after a wait, or the \
         end of the process. `none` ends it at the first one.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_INITIAL_BACKOFF_MS",
        "restart.exponential_delay.initial_backoff_ms",
        "1000",
        Kind::Integer { min: 1, max: DAY_MS },
        "Wait after the first failure.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_MAX_BACKOFF_MS",
        "restart.exponential_delay.max_backoff_ms",
        "60000",
        Kind::Integer { min: 1, max: DAY_MS },
        "Longest wait; the initial one where that is longer.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_BACKOFF_MULTIPLIER",
        "restart.exponential_delay.backoff_multiplier",
        "1.5",
        Kind::Number { min: 1.0, max: 100.0 },
        "Each wait is so many times the one before.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_RESET_BACKOFF_THRESHOLD_MS",
        "restart.exponential_delay.reset_backoff_threshold_ms",
        "3600000",
        Kind::Integer { min: 1, max: 7 * DAY_MS },
        "After so long without a failure the waits and the attempts begin anew.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_JITTER_FACTOR",
        "restart.exponential_delay.jitter_factor",
        "0.1",
        Kind::Number { min: 0.0, max: 1.0 },
        "Part of a wait that chance adds or takes away, so that processes do not march in step.",
    ),
    setting(
        "RESTART_EXPONENTIAL_DELAY_ATTEMPTS_BEFORE_RESET_BACKOFF",
        "restart.exponential_delay.attempts_before_reset_backoff",
        "`infinite`",
        Kind::IntegerOr { word: "infinite", min: 1, max: 1_000_000 },
        "Restarts before the process ends, counted until the waits begin anew.",
    ),
    setting(
        "RESTART_FAILURE_RATE_MAX_FAILURES_PER_INTERVAL",
        "restart.failure_rate.max_failures_per_interval",
        "1",
        Kind::Integer { min: 1, max: 10_000 },
        "With `failure-rate`: failures within the interval that are followed by a restart. One \
         more ends the process.",
    ),
    setting(
        "RESTART_FAILURE_RATE_FAILURE_RATE_INTERVAL_MS",
        "restart.failure_rate.failure_rate_interval_ms",
        "60000",
        Kind::Integer { min: 1, max: 7 * DAY_MS },
        "That interval.",
    ),
    setting(
        "RESTART_FAILURE_RATE_DELAY_MS",
        "restart.failure_rate.delay_ms",
        "1000",
        Kind::Integer { min: 0, max: DAY_MS },
        "Wait before each of these restarts.",
    ),
    setting(
        "RESTART_FIXED_DELAY_ATTEMPTS",
        "restart.fixed_delay.attempts",
        "1",
        Kind::Integer { min: 1, max: 1_000_000_000 },
        "With `fixed-delay`: restarts before the process ends, over its whole life.",
    ),
    setting(
        "RESTART_FIXED_DELAY_DELAY_MS",
        "restart.fixed_delay.delay_ms",
        "1000",
        Kind::Integer { min: 0, max: DAY_MS },
        "Wait before each of these restarts.",
    ),
    setting(
        "RETRY_GIVE_UP_MS",
        "retry_give_up_ms",
        "600000",
        Kind::Integer { min: 1_000, max: 7 * DAY_MS },
        "How long a server or disk that fails is tried again, with no checkpoint completed \
         meanwhile, before the process gives up with exit code 5.",
    ),
    setting(
        "SHUTDOWN_TIMEOUT_MS",
        "shutdown_timeout_ms",
        "25000",
        Kind::Integer { min: 100, max: 3_600_000 },
        "How long the process may take to seal and commit when it is asked to stop. Keep it below \
         what the supervisor waits before it kills.",
    ),
];
