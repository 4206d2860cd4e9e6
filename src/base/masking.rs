//! What may be shown of a setting, an address or a text in which addresses stand.
//!
//! Works on the text and not on a parsed URI, because a URI that does not parse is exactly the one
//! that an error message quotes. Where a text can be read in two ways, more is masked.

/// What stands in place of a secret wherever a setting is shown.
pub(crate) const MASK: &str = "***";

/// What says in any part of a name that it is the name of a secret.
const WORDS: [&str; 25] = [
    "sse.md5",
    "sse.key",
    "sse_key",
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "credential",
    "token",
    "access-key",
    "access_key",
    "accesskey",
    "api-key",
    "api_key",
    "apikey",
    "account-key",
    "account.key",
    "authorization",
    "signature",
    "sse.key",
    "user.info",
    "jaas",
    "client_key",
    "server_key",
];

/// What parts a user from a password, escaped or not.
const COLONS: [&str; 3] = [":", "%3A", "%3a"];

/// What our own hints write in the place of a user, a password and a host. Nobody's password.
const PLACEHOLDER: (&str, &str) = ("USER:PASSWORD", "@HOST");

/// Brackets, quotes and the like that follow an address in a sentence or a list, and are no part of it.
const PUNCTUATION: &[char] = &[
    '(', ')', '[', ']', '{', '}', '<', '>', '"', '\'', '`', ',', '.', ':', ';', '!', '?', '\\',
    '\u{2026}', '\u{2019}', '\u{201d}', '\u{bb}',
];

/// `value` as it may be shown: [`MASK`] if it is secret, else without a password inside a URI.
pub(crate) fn mask(secret: bool, value: &str) -> String {
    if secret { MASK.to_owned() } else { mask_uri(value) }
}

/// Does the name of a property, a setting or a query parameter say that its value is a secret? Errs
/// on the side of masking.
pub(crate) fn is_secret_name(name: &str) -> bool {
    // These are also how longer names begin or end that hold no secret.
    const NAMES: [&str; 5] = ["pass", "sig", "auth", "sslkey", "ssl-key"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
        || NAMES.contains(&name.as_str())
        || name.ends_with("key.pem")
        || name.ends_with("oauthbearer.config")
}

/// Replaces the password of a URI by [`MASK`]: in `scheme://user:password@host`, where of a web
/// address the user goes too, and in parameters such as `?password=`. Of text that is no URI,
/// the same: `user:password@host`, and `host=db password=...` in every spelling that PostgreSQL's
/// own library takes. Other text comes back as it was.
pub(crate) fn mask_uri(uri: &str) -> String {
    let mut shown = String::with_capacity(uri.len());
    let mut uri = uri;
    loop {
        let (scheme, rest) = uri.split_at(scheme_length(uri));
        let kind = Kind::of(scheme);
        shown.push_str(scheme);
        if let Some(at) = second_uri(kind, rest) {
            shown.push_str(&rest[..at]);
            uri = &rest[at..];
            continue;
        }
        let rest = match kind {
            Kind::Text => mask_values(rest),
            _ => mask_parameters(kind, rest),
        };
        shown.push_str(&mask_user(scheme, kind, &rest));
        return shown;
    }
}

/// Masks every URI within a text, such as a library's error that quotes what it asked for.
pub(crate) fn mask_text(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '`' | '<' | '>');
    let words = text.split_inclusive(ends).map(|word| {
        let at = word.find("://").map_or(word.len(), |at| {
            let scheme = word[..at].trim_end_matches(is_scheme);
            scheme.len()
        });
        let (before, uri) = word.split_at(at);
        let is_end = |c: char| ends(c) || PUNCTUATION.contains(&c);
        let (uri, end) = uri.split_at(uri.trim_end_matches(is_end).len());
        if uri.is_empty() { word.to_owned() } else { format!("{before}{}{end}", mask_uri(uri)) }
    });
    words.collect()
}

/// What the scheme says of how the rest is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Files and objects: after the host all is path, with partitions such as `token=5` in it.
    Store,
    /// A web address.
    Web,
    /// Another address, a database's most of all.
    Server,
    /// No scheme: names with values, a path or anything else.
    Text,
}

impl Kind {
    fn of(scheme: &str) -> Self {
        const STORES: [&str; 15] = [
            "file", "s3", "s3a", "s3n", "gs", "abfs", "abfss", "wasb", "wasbs", "adl", "oss",
            "hdfs", "webhdfs", "viewfs", "sqlite",
        ];
        let name = scheme.trim_end_matches("://").to_ascii_lowercase();
        match scheme {
            "" => Self::Text,
            _ if STORES.contains(&name.as_str()) => Self::Store,
            // Before it may stand the letter of an escape, as in `\nhttp`.
            _ if name.ends_with("http") || name.ends_with("https") => Self::Web,
            _ => Self::Server,
        }
    }
}

/// Bytes of `scheme://`, none if the text does not begin with that.
fn scheme_length(uri: &str) -> usize {
    let Some(at) = uri.find("://") else { return 0 };
    let name = uri[..at].strip_prefix("jdbc:").unwrap_or(&uri[..at]);
    if name.chars().all(is_scheme) { at + 3 } else { 0 }
}

fn is_scheme(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')
}

/// Where in a path, which is shown whole, another URI begins, which is not: they may stand in a list.
fn second_uri(kind: Kind, text: &str) -> Option<usize> {
    let path = text.split('?').next().filter(|_| kind == Kind::Store && is_whole_path(text))?;
    let at = path.find("://")?;
    Some(path[..at].trim_end_matches(is_scheme).len())
}

/// Has the address of a store no user? A bucket or a container has no password, so that what its path
/// holds is only a path.
fn is_whole_path(text: &str) -> bool {
    !COLONS.iter().any(|colon| authority(text).contains(colon))
}

/// What stands before the path.
fn authority(text: &str) -> &str {
    text.find(['/', '?', '#']).map_or(text, |end| &text[..end])
}

/// Masks all that follows the first `name=` whose name is that of a secret. Blanks may stand around the
/// `=`, and the value may have any in it, in quotes or not: where it ends is not worth finding out.
fn mask_values(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '?' | '&' | '#' | ';' | ',' | '/' | '=');
    // The directory of a table partition looks like a name with its value.
    let is_path = ["/", ".", "file:", "sqlite:"].iter().any(|start| text.starts_with(start));
    let secret = text.match_indices('=').map(|(at, _)| at).find(|at| {
        let before = text[..*at].trim_end();
        let name = before.rsplit(ends).next().unwrap_or_default();
        let is_directory = is_path && before[..before.len() - name.len()].ends_with('/');
        is_secret_name(&decoded(name)) && !is_directory
    });
    let Some(at) = secret else { return text.to_owned() };
    let (shown, value) = text.split_at(at + 1);
    let blanks = &value[..value.len() - value.trim_start().len()];
    format!("{shown}{blanks}{MASK}")
}

/// Masks the values of a URI's parameters that are secret by their name, wherever a name may begin. Such
/// a value ends at `&` only: a password may hold whatever else ends a value elsewhere.
fn mask_parameters(kind: Kind, text: &str) -> String {
    let begins = |c: char| matches!(c, '?' | '&' | '#' | ';' | ',');
    // With blanks in it this is no URI: somebody put a scheme before names with values.
    let ends = |rest: &str| if text.contains(char::is_whitespace) { None } else { rest.find('&') };
    let path = if kind == Kind::Store { text.find('?').unwrap_or(text.len()) } else { 0 };
    let (path, mut rest) = text.split_at(path);
    let mut masked = String::with_capacity(text.len());
    masked.push_str(path);
    let (mut in_path, mut after_secret) = (kind == Kind::Web, false);
    while !rest.is_empty() {
        let part = rest.find(begins).map_or(rest, |at| &rest[..at]);
        if let Some(at) = secret_value(part, in_path) {
            masked.extend([&part[..at], MASK]);
            rest = ends(rest).map_or("", |at| &rest[at..]);
            after_secret = true;
        } else {
            rest = &rest[part.len()..];
            // Without a name it is the rest of a password with `&` in it.
            let is_rest = after_secret && !part.is_empty() && !part.contains('=');
            masked.push_str(if is_rest { MASK } else { part });
        }
        if let Some(c) = rest.chars().next() {
            masked.push(c);
            in_path &= c != '?';
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}

/// Where the first value begins whose name is that of a secret. A name holds neither `/` nor `=`. In the
/// path of a web address `/token_bucket=3/` is the directory of a table partition, but `/token=3/` may
/// as well be a secret.
fn secret_value(part: &str, in_path: bool) -> Option<usize> {
    let secret = part.match_indices('=').map(|(at, _)| at).find(|at| {
        let (before, value) = part.split_at(*at);
        let name = before.rsplit(['/', '=']).next().unwrap_or_default();
        let in_directory =
            in_path && before[..before.len() - name.len()].ends_with('/') && value.contains('/');
        let name = decoded(name).trim().to_ascii_lowercase();
        let is_column = in_directory && !WORDS.iter().any(|word| name.ends_with(word));
        is_secret_name(&name) && !is_column
    });
    secret.map(|at| at + 1)
}

/// The name of a parameter as a client reads it: escapes undone, line ends and tabs gone.
fn decoded(name: &str) -> String {
    let name: String = name.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let mut pairs = url::form_urlencoded::parse(name.as_bytes());
    pairs.next().map_or(name.clone(), |(name, _)| name.into_owned())
}

/// Masks what stands before the host. The last `@` ends it, although a password should escape it and
/// a path may hold one: showing too little is harmless.
fn mask_user(scheme: &str, kind: Kind, text: &str) -> String {
    let authority = authority(text);
    if kind == Kind::Store && is_whole_path(text) {
        return text.to_owned();
    }
    let at = text.rfind('@').or_else(|| authority.find("%40"));
    let Some(at) = at else { return mask_ports(scheme, text) };
    let (user, host) = text.split_at(at);
    if user == PLACEHOLDER.0 && host.starts_with(PLACEHOLDER.1) {
        return text.to_owned();
    }
    // A web address has no user's name that is worth showing, but tokens stand in its place.
    if kind == Kind::Web && at < authority.len() {
        return format!("{MASK}{host}");
    }
    match COLONS.iter().filter_map(|colon| user.find(colon)).min() {
        Some(colon) => format!("{}:{MASK}{host}", &user[..colon]),
        None => text.to_owned(),
    }
}

/// What stands in the place of a port and is none may be a password whose host was forgotten. One
/// address may follow another, after a comma most of all.
fn mask_ports(scheme: &str, text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut has_scheme = scheme.len() > "://".len();
    let mut rest = text;
    while !rest.is_empty() {
        let (here, next) = rest.split_at(rest.find("://").map_or(rest.len(), |at| at + 3));
        let authority = authority(here);
        match no_port(authority).filter(|_| has_scheme) {
            Some(at) => {
                masked.extend([&authority[..at], MASK]);
                // What looks like another address may be the rest of the password.
                masked.push_str(if next.is_empty() { &here[authority.len()..] } else { "" });
                return masked;
            }
            None => masked.push_str(here),
        }
        has_scheme = here.trim_end_matches("://").ends_with(is_scheme);
        rest = next;
    }
    masked
}

/// Where in `host:port,host:port` something begins that stands in the place of a port and is none.
fn no_port(authority: &str) -> Option<usize> {
    let mut begin = 0;
    for element in authority.split(',') {
        let host = element.trim_end_matches(PUNCTUATION);
        let port = match host.strip_prefix('[') {
            Some(address) => address
                .trim_start_matches(|c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.'))
                .trim_start_matches(']'),
            None => host.find(':').map_or("", |colon| &host[colon..]),
        };
        let digits = port.strip_prefix(':').unwrap_or(port);
        let is_port = digits.chars().all(|c| c.is_ascii_digit());
        if let Some(colon) = element.find(':').filter(|_| !is_port) {
            return Some(begin + colon + 1);
        }
        begin += element.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with what is shown of it.
    const URIS: &[(&str, &str)] = &[
        ("postgres://ice:hunter2@db:5432/c", "postgres://ice:***@db:5432/c"),
        ("postgres://ice@db/c", "postgres://ice@db/c"),
        ("sqlite://catalog.db?mode=rwc", "sqlite://catalog.db?mode=rwc"),
        ("ice:hunter2@db", "ice:***@db"),
        ("jdbc:postgresql://ice:hunter2@db/c", "jdbc:postgresql://ice:***@db/c"),
        // Passwords that should be escaped and are not.
        ("postgres://ice:hun@ter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice:hun?ter2@db/c?sslmode=require", "postgres://ice:***@db/c?sslmode=require"),
        ("postgres://ice:hun/ter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice:hun#ter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice:hun?x=ter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice:https://hunter2@db/c", "postgres://ice:***@db/c"),
        // Escaped ones, and escapes where they do not belong.
        ("postgres://ice:hun%40ter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice%3Ahunter2@db/c", "postgres://ice:***@db/c"),
        ("postgres://ice:hunter2%40db/c", "postgres://ice:***%40db/c"),
        // In parameters.
        ("postgres://db/c?user=ice&password=hunter2", "postgres://db/c?user=ice&password=***"),
        ("postgres://db:5432/c?password=hun@ter2", "postgres://db:5432/c?password=***"),
        ("postgres://db/c?password=hun?ter2#x", "postgres://db/c?password=***"),
        ("postgres://db/c?password=hun&ter2", "postgres://db/c?password=***&***"),
        ("postgres://db/c?PassWord=hunter2", "postgres://db/c?PassWord=***"),
        ("postgres://db/c?p%61ssword=hunter2", "postgres://db/c?p%61ssword=***"),
        ("postgres://db/c?pass\tword=hunter2", "postgres://db/c?pass\tword=***"),
        ("postgres://db/c?password=", "postgres://db/c?password=***"),
        (
            "postgres://ice:hunter2@db/c?sslpassword=hunter2&sslmode=require&sslkey=hunter2",
            "postgres://ice:***@db/c?sslpassword=***&sslmode=require&sslkey=***",
        ),
        ("host=db user=ice password=hunter2 dbname=c", "host=db user=ice password=***"),
        ("host=db user=ice password = hunter2", "host=db user=ice password = ***"),
        ("password\t=\n'hun\\'t er2' host=db", "password\t=\n***"),
        ("host=/run/token/x sslpassword =hunter2", "host=/run/token/x sslpassword =***"),
        ("host=db password=hun&x=ter2", "host=db password=***"),
        ("postgres://host=db password=a&b=hunter2", "postgres://host=db password=***"),
        ("dbname=postgres://ice:hunter2", "dbname=postgres://ice:***"),
        // Paths, whatever is in them.
        ("/x/token_events/data/id_bucket=0/f", "/x/token_events/data/id_bucket=0/f"),
        ("./x/secret=5,token=6/f", "./x/secret=5,token=***"),
        (
            "s3://b/x/token_events/token=5,password=6/f",
            "s3://b/x/token_events/token=5,password=6/f",
        ),
        ("file:///x/secret/password=a:b@c/f", "file:///x/secret/password=a:b@c/f"),
        ("abfss://c@account/at=10:30/u@x", "abfss://c@account/at=10:30/u@x"),
        (
            "http://lake:9000/b/tokens/token_bucket=3/f",
            "http://lake:9000/b/tokens/token_bucket=3/f",
        ),
        ("postgres://db/tokens/x=1", "postgres://db/tokens/x=1"),
        ("postgres://db/x=1/password=hunter2", "postgres://db/x=1/password=***"),
        ("https://lake/b/token=hunter2", "https://lake/b/token=***"),
        ("https://lake/b/access_token=hunter2/v1", "https://lake/b/access_token=***"),
        ("s3://b/k?token=hunter2", "s3://b/k?token=***"),
        ("s3n://AKIA:hun/ter2@b/k", "s3n://AKIA:***@b/k"),
        ("S3A://AKIA%3Ahunter2@b/k", "S3A://AKIA:***@b/k"),
        // Web addresses.
        ("https://catalog:8181/v1?token=hunter2", "https://catalog:8181/v1?token=***"),
        ("https://catalog/v1#access_token=hunter2", "https://catalog/v1#access_token=***"),
        ("https://ice:hunter2@catalog:8181/v1", "https://***@catalog:8181/v1"),
        ("HTTPS://hunter2@catalog/v1", "HTTPS://***@catalog/v1"),
        ("https://hunter2:@catalog/v1", "https://***@catalog/v1"),
        (
            "https://lake/b/k?X-Amz-Signature=hunter2&sig=hunter2",
            "https://lake/b/k?X-Amz-Signature=***&sig=***",
        ),
        ("s3://b/token=1,postgres://ice:hunter2@db", "s3://b/token=1,postgres://ice:***@db"),
        ("file:///a,file:///b,http://hunter2@lake", "file:///a,file:///b,http://***@lake"),
        ("http://[ab]x,ice:hunter2", "http://[ab]x,ice:***"),
        ("s3://b/k?token=x://hunter2", "s3://b/k?token=***"),
        ("s3n://AKIA:a/b-c://hunter2@b/k", "s3n://AKIA:***@b/k"),
        // A host that was forgotten; no port is that.
        ("postgres://ice:hunter2", "postgres://ice:***"),
        ("postgres://ice:hunter2/c", "postgres://ice:***/c"),
        ("postgres://ice:hun,ter2", "postgres://ice:***"),
        ("postgres://ice:https://hunter2", "postgres://ice:***"),
        ("PLAINTEXT://a:9092,PLAINTEXT://b:hunter2", "PLAINTEXT://a:9092,PLAINTEXT://b:***"),
        ("(http://lake:9000)", "(http://lake:9000)"),
        ("http://lake:9000).", "http://lake:9000)."),
        ("[http://[::1]:9000]", "[http://[::1]:9000]"),
        ("http://[fe80::abcd", "http://[fe80::abcd"),
        ("http(s)://host[:port][/path]", "http(s)://host[:port][/path]"),
        ("postgres://USER:PASSWORD@HOST/DATABASE", "postgres://USER:PASSWORD@HOST/DATABASE"),
        ("postgres://ice:PASSWORD@HOST/DATABASE", "postgres://ice:***@HOST/DATABASE"),
        ("http://[::1]:8181/v1", "http://[::1]:8181/v1"),
        ("http://[::1]/v1", "http://[::1]/v1"),
        ("plain text", "plain text"),
        ("127.0.0.1:9092,127.0.0.1:9093", "127.0.0.1:9092,127.0.0.1:9093"),
        ("PLAINTEXT://a:9092,PLAINTEXT://b:9092", "PLAINTEXT://a:9092,PLAINTEXT://b:9092"),
        ("file:///w/t/day=2024-01-01/a.parquet", "file:///w/t/day=2024-01-01/a.parquet"),
        ("", ""),
    ];

    #[test]
    fn the_password_inside_a_uri_is_masked_and_the_rest_is_kept() {
        for (uri, shown) in URIS {
            assert_eq!(mask_uri(uri), *shown);
            assert_eq!(mask_uri(shown), *shown, "once more");
        }
    }

    #[test]
    fn uris_inside_a_text_are_masked_where_they_stand() {
        let told = "cannot read (http://ice:hunter2@lake/b?token=hunter2&x=1, tried twice): \
                    no answer from \"https://hunter2@auth/t\", is postgres://ice:hunter2@db up?\n";
        let shown = "cannot read (http://***@lake/b?token=***&x=1, tried twice): \
                     no answer from \"https://***@auth/t\", is postgres://ice:***@db up?\n";
        assert_eq!(mask_text(told), shown);
        for text in ["", "no address: at all", "a :// b", "://", "see file:///a/b and s3://b/k: x"]
        {
            assert_eq!(mask_text(text), text);
        }
    }

    #[test]
    fn what_stands_around_a_uri_stays() {
        let uris = [
            ("http://minio:9000", "http://minio:9000"),
            ("http://[::1]:9000", "http://[::1]:9000"),
            ("http://[fe80::abcd]", "http://[fe80::abcd]"),
            (
                "file:///x/token_events/id_bucket=0/f.parquet",
                "file:///x/token_events/id_bucket=0/f.parquet",
            ),
            ("postgres://ice:hunter2@db", "postgres://ice:***@db"),
            ("postgres://ice:hunter2", "postgres://ice:***"),
            ("http://lake/b?token=hunter2", "http://lake/b?token=***"),
        ];
        let around = [
            ("(", ")"),
            ("[", "]"),
            ("{", "}"),
            ("<", ">"),
            ("'", "'"),
            ("\"", "\""),
            ("`", "`"),
            ("(", "),"),
            ("", "."),
            ("", ","),
            ("", ":"),
            ("", ";"),
            ("", "?"),
            ("(see '", "'!)."),
            ("\\\"", "\\\""),
            ("", "...\n"),
            ("url=", ", retried"),
        ];
        for (uri, shown) in uris {
            for (before, after) in around {
                let expected = format!("a {before}{shown}{after} z");
                assert_eq!(mask_text(&format!("a {before}{uri}{after} z")), expected);
                assert_eq!(mask_text(&expected), expected, "once more");
            }
        }
        let form = "it is not of the form http(s)://host[:port][/path]";
        assert_eq!(mask_text(form), form);
    }

    proptest::proptest! {
        #[test]
        fn no_password_shows_whatever_it_is_made_of(
            password in "[a-zA-Z0-9@:/?#&=;,%+ .-]{0,6}hunter2[a-zA-Z0-9@:/?#;,%+ .-]{0,6}",
            encoded in "[a-zA-Z0-9%@:/?#=;,.-]{0,6}hunter2[a-zA-Z0-9%@:/?#=;,.-]{0,6}",
        ) {
            for uri in [
                format!("postgres://ice:{password}@db:5432/c?sslmode=require"),
                format!("http://ice:{password}@catalog/v1"),
                format!("postgres://db:5432/c?user=ice&password={encoded}&sslmode=require"),
                format!("postgres://ice:hunter2@db/c?password={encoded}"),
            ] {
                let shown = mask_uri(&uri);
                proptest::prop_assert!(!shown.contains("hunter2"), "{} as {}", uri, shown);
            }
        }

        /// As libpq takes them: blanks around `=`, quotes, escapes, any order, other values before.
        #[test]
        fn no_password_among_names_with_values_shows(
            before in "((host|user|dbname|options) ?= ?([a-z/=]{1,6}|'[a-z =@:/]{0,6}') ){0,3}",
            name in "(PASSWORD|password|sslpassword|oauth_client_secret|scram_client_key)",
            equals in "[ \t\n]{0,2}=[ \t\n]{0,2}",
            plain in "([a-zA-Z0-9@:/?#&=;,%'+.-]|\\\\.){0,6}hunter2([a-zA-Z0-9@:/?#&=;,%'+.-]|\\\\.){0,6}",
            quoted in "'([a-z0-9@:/?#&=;, ]|\\\\.){0,6}hunter2([a-z0-9@:/?#&=;, ]|\\\\.){0,6}'",
            after in "( (port|sslmode) ?= ?[a-z0-9]{1,6}){0,2}",
        ) {
            for value in [plain, quoted] {
                let text = format!("{before}{name}{equals}{value}{after}");
                let shown = mask_uri(&text);
                proptest::prop_assert!(!shown.contains("hunter2"), "{} as {}", text, shown);
                proptest::prop_assert_eq!(&mask_uri(&shown), &shown);
            }
        }

        #[test]
        fn a_path_in_a_store_is_shown_whole(
            scheme in "(file://|s3://|s3a://|gs://|abfss://)",
            bucket in "[a-z]{0,6}",
            path in "(/(token|secret_events|password|x)(=[a-z0-9:@,;&#=+ -]{0,6})?){0,4}",
        ) {
            let uri = format!("{scheme}{bucket}{path}");
            proptest::prop_assert_eq!(mask_uri(&uri), uri);
        }
    }
}
