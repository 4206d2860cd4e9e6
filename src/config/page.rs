//! Renders `docs/settings.md` from the settings table.

use super::owned::OWNED_PROPERTIES;
use super::setting::SettingDoc;
use super::settings::SETTINGS;

const INTRODUCTION: &str = "# Settings

<!-- Rendered from the table in src/config/settings.rs. The test
`the_settings_page_is_the_rendering_of_the_table` rewrites this page when it differs, and fails
that once: run it again and commit the page. -->

Each setting has a name for the environment and the env file (`--env-file`), and a key for the TOML
file (`--config`): `kafka.brokers` is `brokers` in the section `[kafka]`.

**Which value counts.** The environment of the process, else the env file, else the TOML file, else
the default built into the program (`config/default.toml`). So a variable given with
`docker run -e` or in a compose file overrides the files. An empty value is no value: the next
source is asked. `icestream check` shows every value with the source it came from.

**Mistakes.** All of them are reported at once, and nothing is started. An unknown key in the TOML
file is an error. So is a name in the env file that begins like a setting (`KAFKA_`, `ICEBERG_`,
`CHECKPOINT_`, `MAINTENANCE_`, `RESTART_`, `ICESTREAM_`, `AWS_`, `S3_`, `BATCH_`) or differs from one by a typing error; other
names are ignored there, so that values can refer to them. In the environment of the process, where
other programs and Kubernetes have names too, only a typing error of a `KAFKA_`, `ICEBERG_` or
`CHECKPOINT_` setting is an error, and only while the setting itself is not set.

**The env file** has lines `NAME=value`, comments after `#`, and is read as `docker compose` reads
it. A value with spaces or `#` stands in quotes. Outside single quotes `${NAME}` stands for a
variable set before or in the environment and `\\` escapes, so put passwords in single quotes. A
dollar sign that refers to nothing, and a name set twice, are errors.

`docker run --env-file` is another reader: it passes quotes, comments after a value and `$` on as they
stand. A value in the environment that stands in quotes, or has a comment, is an error that says so. A
file without quotes, and with comments on lines of their own, means the same to all three.

**Secrets** (marked) are shown as `***` everywhere, and so is a password inside any URI.

Paths are relative to the directory the process was started in. 1 MiB is 1,048,576 bytes.
";

const PROPERTIES: &str = "
## `[kafka.properties]`

Any other [property of librdkafka](https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md)
may be set in this section of the TOML file, its name in quotes:

```toml
[kafka.properties]
\"queued.max.messages.kbytes\" = 131072
\"client.id\" = \"lake-1\"
```

These may not, because they are settings of their own or because exactly-once rests on them:

| property | why |
|---|---|
";

/// Title and key prefixes of the sections of the page, in order.
const SECTIONS: [(&str, &[&str]); 8] = [
    ("Kafka", &["kafka."]),
    ("Iceberg", &["iceberg."]),
    ("S3", &["s3."]),
    ("Checkpoints", &["checkpoint."]),
    ("Writing", &["write.", "parallelism", "memory_limit_mb", "bad_record"]),
    ("Maintenance", &["maintenance."]),
    ("Failures", &["retry_give_up_ms", "restart."]),
    ("The process", &["http.", "log.", "shutdown_timeout_ms"]),
];

/// The text of `docs/settings.md`.
pub(crate) fn settings_page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, prefixes) in SECTIONS {
        page.push_str(&format!(
            "\n## {title}\n\n| name | TOML key | meaning | allowed | default |\n|---|---|---|---|---|\n"
        ));
        let belongs = |doc: &&SettingDoc| prefixes.iter().any(|prefix| doc.key.starts_with(prefix));
        for doc in SETTINGS.iter().filter(belongs) {
            page.push_str(&row(doc));
        }
    }
    page.push_str(PROPERTIES);
    for (property, reason) in OWNED_PROPERTIES {
        page.push_str(&format!("| `{property}` | {reason} |\n"));
    }
    page
}

fn row(doc: &SettingDoc) -> String {
    let alias = doc.alias.map(|alias| format!(", else `{alias}`")).unwrap_or_default();
    let secret = if doc.secret { " *Secret.*" } else { "" };
    let SettingDoc { name, key, meaning, kind, default, .. } = doc;
    format!("| `{name}`{alias} | `{key}` | {meaning}{secret} | {kind} | {default} |\n")
}
