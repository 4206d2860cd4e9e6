//! An HTTP/1.1 reverse proxy that loses, delays and forges on demand. It passes bytes on as they
//! are, one request a connection, so that nothing in between retries or repairs anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// What happens to a request that a [`Rule`] matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered by the server, and the client sees its connection closed instead.
    DropReply,
    /// It is answered by the server, and the client waits for the reply until [`Rule::release`].
    HoldReply,
    /// It waits in the proxy until [`Rule::release`] and is then delivered, also if the client has
    /// given up meanwhile.
    HoldRequest,
    /// It is never delivered; the proxy answers with this status and body.
    Answer(u16, String),
    /// It is answered by the server, and the client gets this status and body instead.
    AnswerInstead(u16, String),
    /// It is never delivered and never answered; [`Rule::release`] closes the connection.
    Hang,
}

/// Which requests, and how many of them.
#[derive(Clone, Debug)]
pub struct Matching {
    method: &'static str,
    path: String,
    saying: &'static str,
    skip: usize,
    times: usize,
}

/// What the body of a commit of records or of an edit has, and that of no other change of a table.
pub const LEDGER: &str = "icestream.ledger.";

impl Matching {
    /// Requests of a method whose path contains a text: the first one of them.
    pub fn new(method: &'static str, path_contains: &str) -> Self {
        Self { method, path: path_contains.into(), saying: "", skip: 0, times: 1 }
    }

    /// The commit of a table in a REST catalog: the first one.
    pub fn commit_of(namespace: &str, table: &str) -> Self {
        Self::new("POST", &format!("/namespaces/{namespace}/tables/{table}"))
    }

    /// The commit of records, or of an edit of the ledger, by icestream: the first one.
    pub fn ledger_of(namespace: &str, table: &str) -> Self {
        Self::commit_of(namespace, table).with_ledger()
    }

    /// Of them those that bring a ledger.
    #[must_use]
    pub fn with_ledger(self) -> Self {
        Self { saying: LEDGER, ..self }
    }

    /// Lets so many of them pass before.
    #[must_use]
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// So many of them.
    #[must_use]
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

/// One request that the proxy saw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Body as text.
    pub body: String,
    /// The server's status; none if it was not asked or did not answer.
    pub status: Option<u16>,
    /// The fault that it met, if any.
    pub fault: Option<Fault>,
}

/// The proxy. Dropping it releases everything that is held and closes its port.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// A fault that was ordered.
pub struct Rule {
    number: usize,
    shared: Arc<Shared>,
}

/// What a proxy does to every request, beside its rules: answers it itself, or changes the reply.
pub trait Between: Send + Sync {
    /// Given the head of a request as text, a status and body to answer with; none passes it on.
    fn request(&self, _head: &str) -> Option<(u16, String)> {
        None
    }

    /// Given the body of a request to a path, the one that the server gets; none leaves it as it is.
    fn body(&self, _path: &str, _body: &str) -> Option<String> {
        None
    }

    /// Given the whole reply to a path, the one that the client gets.
    fn reply(&self, _path: &str, reply: Vec<u8>) -> Vec<u8> {
        reply
    }
}

/// Nothing.
struct Nothing;

impl Between for Nothing {}

struct Shared {
    upstream: String,
    between: Arc<dyn Between>,
    stopped: AtomicBool,
    cut: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<RuleState>,
    seen: Vec<Seen>,
}

struct RuleState {
    matching: Matching,
    fault: Fault,
    /// Requests that the rule took.
    hits: usize,
    /// Requests that the rule took and is through with.
    done: usize,
    released: bool,
}

struct Request {
    method: String,
    path: String,
    /// The whole request as it is to be sent on.
    bytes: Vec<u8>,
    body: String,
    body_length: usize,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, `HOST:PORT`.
    pub fn before(upstream: &str) -> Self {
        Self::with(upstream, Arc::new(Nothing))
    }

    /// The same, with somebody who looks at all that passes.
    pub fn with(upstream: &str, between: Arc<dyn Between>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let address = listener.local_addr().expect("the proxy's own address");
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            between,
            stopped: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(&client));
            }
        });
        Self { address, shared }
    }

    /// `http://HOST:PORT`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Orders a fault. Of several rules that match, the first ordered and not yet used up counts.
    pub fn on(&self, matching: Matching, fault: Fault) -> Rule {
        let mut state = self.shared.state();
        let rule = RuleState { matching, fault, hits: 0, done: 0, released: false };
        state.rules.push(rule);
        Rule { number: state.rules.len() - 1, shared: Arc::clone(&self.shared) }
    }

    /// From now on every connection is closed before a byte is read, as if the server were away.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Undoes [`Proxy::cut`].
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// All requests that are through, in the order in which they got through.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl Rule {
    /// Waits until the rule took so many requests: they have arrived, whatever becomes of them.
    pub fn wait_hits(&self, hits: usize, within: Duration) {
        self.wait("take", hits, within, |rule| rule.hits);
    }

    /// With how many requests the rule is through: delivered late, or reply lost.
    pub fn done(&self) -> usize {
        self.shared.state().rules[self.number].done
    }

    /// Waits until the rule is through with so many requests: delivered late, or reply lost.
    pub fn wait_done(&self, done: usize, within: Duration) {
        self.wait("be through with", done, within, |rule| rule.done);
    }

    /// Lets go what the rule holds and will hold.
    pub fn release(&self) {
        self.shared.state().rules[self.number].released = true;
        self.shared.changed.notify_all();
    }

    /// Takes no request from now on.
    pub fn withdraw(&self) {
        self.shared.state().rules[self.number].matching.times = 0;
    }

    fn wait(&self, what: &str, count: usize, within: Duration, of: fn(&RuleState) -> usize) {
        let deadline = Instant::now() + within;
        let mut state = self.shared.state();
        while of(&state.rules[self.number]) < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the proxy did not {what} {count} requests within {within:?}");
            state = self.shared.changed.wait_timeout(state, left).expect(POISONED).0;
        }
    }
}

const POISONED: &str = "a thread panicked within the proxy";

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }

    /// One connection. Whatever fails on either side ends it, which is what the client then sees.
    fn serve(&self, client: &TcpStream) {
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut request) = read_request(client) else { return };
        if let Some(body) = self.between.body(&request.path, &request.body) {
            request.replace_body(body);
        }
        let head = request.bytes.len() - request.body_length;
        let refused = self.between.request(&String::from_utf8_lossy(&request.bytes[..head]));
        if let Some((code, body)) = refused {
            answer(client, code, &body);
            return;
        }
        let (rule, fault) = self.match_rule(&request).unzip();
        let mut status = None;
        match (&fault, rule) {
            (Some(Fault::Answer(code, body)), _) => answer(client, *code, body),
            (Some(Fault::AnswerInstead(code, body)), _) => {
                status = self.pass_on(&request, None).ok();
                answer(client, *code, body);
            }
            (Some(Fault::Hang), Some(rule)) => self.wait_release(rule),
            (Some(Fault::HoldRequest), Some(rule)) => {
                self.wait_release(rule);
                status = self.pass_on(&request, Some(client)).ok();
            }
            (Some(Fault::HoldReply), Some(rule)) => {
                let reply = self.ask(&request);
                self.wait_release(rule);
                if let Ok(reply) = reply {
                    status = status_of(&reply);
                    reply_with(client, &reply);
                }
            }
            (Some(Fault::DropReply), _) => status = self.pass_on(&request, None).ok(),
            _ => status = self.pass_on(&request, Some(client)).ok(),
        }
        // A client that gave up has closed its side.
        drop(client.shutdown(Shutdown::Both));
        let mut state = self.state();
        let Request { method, path, body, .. } = request;
        state.seen.push(Seen { method, path, body, status, fault });
        if let Some(rule) = rule {
            state.rules[rule].done += 1;
        }
        self.changed.notify_all();
    }

    fn match_rule(&self, request: &Request) -> Option<(usize, Fault)> {
        let mut state = self.state();
        let number = state.rules.iter_mut().position(|rule| {
            let Matching { method, path, saying, skip, times } = &mut rule.matching;
            let matches = request.method == *method
                && request.path.contains(path.as_str())
                && request.body.contains(*saying);
            if !matches || *times == 0 {
                return false;
            }
            if *skip > 0 {
                *skip -= 1;
                return false;
            }
            *times -= 1;
            rule.hits += 1;
            true
        })?;
        self.changed.notify_all();
        Some((number, state.rules[number].fault.clone()))
    }

    fn wait_release(&self, rule: usize) {
        let mut state = self.state();
        while !state.rules[rule].released && !self.stopped.load(Ordering::SeqCst) {
            // Bounded only because the proxy's end does not take the lock.
            let waited = self.changed.wait_timeout(state, Duration::from_millis(100));
            state = waited.expect(POISONED).0;
        }
    }

    fn pass_on(&self, request: &Request, client: Option<&TcpStream>) -> std::io::Result<u16> {
        let reply = self.ask(request)?;
        if let Some(client) = client {
            reply_with(client, &reply);
        }
        status_of(&reply).ok_or_else(|| std::io::Error::other("a reply without a status"))
    }

    /// Sends the request and reads the reply to its end.
    fn ask(&self, request: &Request) -> std::io::Result<Vec<u8>> {
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(&request.bytes)?;
        let mut reply = Vec::new();
        upstream.read_to_end(&mut reply)?;
        Ok(self.between.reply(&request.path, reply))
    }
}

impl Request {
    fn replace_body(&mut self, body: String) {
        let head = &self.bytes[..self.bytes.len() - self.body_length];
        let head = String::from_utf8_lossy(head).into_owned();
        let is_length = |line: &str| line.to_ascii_lowercase().starts_with("content-length:");
        let lines = head.split_inclusive("\r\n").filter(|line| !is_length(line));
        let head: String = lines.collect();
        let head = head.strip_suffix("\r\n").expect("an end of the head");
        let bytes = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        (self.bytes, self.body_length, self.body) = (bytes.into_bytes(), body.len(), body);
    }
}

/// Reads a request and asks for the end of the connection after it, so that the end of the reply
/// is the end of the connection.
fn read_request(client: &TcpStream) -> std::io::Result<Request> {
    let malformed = || std::io::Error::other("a request that this proxy does not understand");
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Err(malformed()) };

    let mut head = first.clone();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(malformed());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| malformed())?,
            "transfer-encoding" => panic!("this proxy does not pass on chunked requests: {head}"),
            "connection" => continue,
            _ => {}
        }
        head.push_str(&line);
    }
    head.push_str("connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Request { method: method.into(), path: path.into(), bytes, body, body_length: length })
}

fn reply_with(mut client: &TcpStream, reply: &[u8]) {
    // Fails only if the client has gone, which is for the client to notice.
    drop(client.write_all(reply));
}

fn answer(client: &TcpStream, code: u16, body: &str) {
    let reply = format!(
        "HTTP/1.1 {code} Ordered\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    reply_with(client, reply.as_bytes());
}

fn status_of(reply: &[u8]) -> Option<u16> {
    let first = reply.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(first).ok()?.split_whitespace().nth(1)?.parse().ok()
}
