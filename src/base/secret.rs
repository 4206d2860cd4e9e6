//! Values that must never be printed, and the masking of those that may be printed in part.

use std::collections::BTreeMap;
use std::fmt;

/// What stands in place of a secret wherever a setting is shown.
pub(crate) const MASK: &str = "***";

/// A value that is never printed: `Debug` and `Display` show [`MASK`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself, for the client library that needs it. Never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A URI that may carry a password, which `Debug` and `Display` mask.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri(String);

impl Uri {
    /// Wraps a URI as it was written.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The whole URI with its password, for the client that connects to it. Never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Uri {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_uri(&self.0))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_uri(&self.0))
    }
}

/// Properties for a client library by name. `Debug` masks those whose name says that they are
/// secret, and passwords inside URIs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

impl Properties {
    /// Sets a property, replacing an earlier value.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of a property, unmasked.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All properties in the order of their names, unmasked: for the client library.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Is it set?
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes a property out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// True if no property is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<String>> Extend<(N, V)> for Properties {
    fn extend<T: IntoIterator<Item = (N, V)>>(&mut self, properties: T) {
        properties.into_iter().for_each(|(name, value)| self.set(name, value));
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Properties {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(properties: T) -> Self {
        let mut all = Self::default();
        all.extend(properties);
        all
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(name, value)| (name, mask(is_secret_name(name), value)));
        f.debug_map().entries(shown).finish()
    }
}

/// `value` as it may be shown: [`MASK`] if it is secret, else without a password inside a URI.
pub(crate) fn mask(secret: bool, value: &str) -> String {
    if secret { MASK.to_owned() } else { mask_uri(value) }
}

/// Does the name of a property, a setting or a query parameter say that its value is a secret? Errs
/// on the side of masking.
pub(crate) fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 20] = [
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
    ];
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
/// the same: `user:password@host`, `host=db password=...`. Other text comes back as it was.
///
/// Works on the text and not on a parsed URI, because a URI that does not parse is exactly the one
/// that an error message quotes. Where a text can be read in two ways, more is masked.
pub(crate) fn mask_uri(uri: &str) -> String {
    let (scheme, rest) = uri.split_at(scheme_length(uri));
    let rest = mask_parameters(rest, !scheme.is_empty());
    format!("{scheme}{}", mask_user(scheme, &rest))
}

/// Masks every URI within a text, such as a library's error that quotes what it asked for.
pub(crate) fn mask_text(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '`' | '<' | '>');
    let words = text.split_inclusive(ends).map(|word| {
        let at = word.find("://").map_or(word.len(), |at| {
            let scheme = word[..at].trim_end_matches(is_scheme);
            scheme.len()
        });
        let (before, uri) = word.split_at(at);
        let (uri, end) = uri.split_at(uri.trim_end_matches(ends).len());
        if uri.is_empty() { word.to_owned() } else { format!("{before}{}{end}", mask_uri(uri)) }
    });
    words.collect()
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

/// Masks the values of parameters that are secret by their name, wherever a name may begin. Such a
/// value ends at `&` only: a password may hold whatever else ends a value elsewhere.
fn mask_parameters(text: &str, is_uri: bool) -> String {
    let begins =
        |c: char| matches!(c, '?' | '&' | '#' | ';' | ',') || (c.is_whitespace() && !is_uri);
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    let mut after_secret = false;
    while !rest.is_empty() {
        let part = rest.find(begins).map_or(rest, |at| &rest[..at]);
        let named = part.split_once('=').filter(|(name, _)| is_secret_name(&decoded(name)));
        if let Some((name, _)) = named {
            rest = rest.find('&').map_or("", |at| &rest[at..]);
            masked.extend([name, "=", MASK]);
            after_secret = true;
        } else {
            rest = &rest[part.len()..];
            // Without a name it is the rest of a password with `&` in it.
            let is_rest = after_secret && !part.is_empty() && !part.contains('=');
            masked.push_str(if is_rest { MASK } else { part });
        }
        if let Some(c) = rest.chars().next() {
            masked.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    masked
}

/// The name of a parameter as a client reads it: escapes undone, line ends and tabs gone.
fn decoded(name: &str) -> String {
    let name: String = name.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let mut pairs = url::form_urlencoded::parse(name.as_bytes());
    pairs.next().map_or(name.clone(), |(name, _)| name.into_owned())
}

/// Masks what stands before the host. The last `@` ends it, although a password should escape it and
/// a path may hold one: showing too little is harmless.
fn mask_user(scheme: &str, text: &str) -> String {
    let authority = text.find(['/', '?', '#']).map_or(text, |end| &text[..end]);
    let at = text.rfind('@').or_else(|| authority.find("%40"));
    let Some(at) = at else { return mask_port(scheme, text, authority) };
    let (user, host) = text.split_at(at);
    // A web address has no user's name that is worth showing, but tokens stand in its place.
    let is_web = ["http://", "https://"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    if is_web && at < authority.len() {
        return format!("{MASK}{host}");
    }
    let colons = [":", "%3A", "%3a"].iter().filter_map(|colon| user.find(colon));
    match colons.min() {
        Some(colon) => format!("{}:{MASK}{host}", &user[..colon]),
        None => text.to_owned(),
    }
}

/// What stands in the place of a port and is none may be a password whose host was forgotten.
fn mask_port(scheme: &str, text: &str, authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !scheme.is_empty()
                && !port.contains([']', ','])
                && !port.chars().all(|c| c.is_ascii_digit()) =>
        {
            format!("{host}:{MASK}{}", &text[authority.len()..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

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
        // A host that was forgotten; no port is that.
        ("postgres://ice:hunter2", "postgres://ice:***"),
        ("postgres://ice:hunter2/c", "postgres://ice:***/c"),
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
            let wrapped = Uri::new(*uri);
            assert_eq!(format!("{wrapped} {wrapped:?}"), format!("{shown} {shown}"));
            assert_eq!(wrapped.expose(), *uri);
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
    }

    #[test]
    fn properties_show_their_secrets_masked_and_give_them_unmasked() {
        let mut properties = Properties::default();
        for name in [
            "sasl.password",
            "SSL.Key.PEM",
            "s3.secret-access-key",
            "s3.session-token",
            "sasl.jaas.config",
            "basic.auth.user.info",
        ] {
            properties.set(name, "hunter2");
        }
        properties.set("proxy", "http://me:hunter2@proxy");
        properties.set("queued.min.messages", "1000");
        let shown = format!("{properties:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains(r#""queued.min.messages": "1000""#), "{shown}");
        assert_eq!(properties.get("sasl.password"), Some("hunter2"));
        assert_eq!(properties.iter().count(), 8);
    }
}
