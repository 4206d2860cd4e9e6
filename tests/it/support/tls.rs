//! Certificates of a private authority, and a server that speaks TLS in front of one that does not.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::process::{self, Process};
use super::{PATIENCE, new_dir, parts};

const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

pub fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(dir);
    process::output("openssl", command);
}

/// A new authority: `{name}.key` and `{name}.pem`.
pub fn make_authority(dir: &Path, name: &str) {
    let arguments =
        format!("req -x509 {EC} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem");
    openssl(dir, &arguments);
}

/// A certificate by the authority `ca` for this machine: `server.key` and `server.pem`.
pub fn make_certificate(dir: &Path) {
    fs::write(dir.join("extension"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(dir, &format!("req -new {EC} -subj /CN=server -keyout server.key -out server.csr"));
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile extension -out server.pem",
    );
}

/// Passes on what comes by TLS and what is answered.
const TERMINATOR: &str = r#"
import asyncio, ssl, sys

async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def main(certificate, key, host, port):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def serve(reader, writer):
        try:
            upstream = await asyncio.open_connection(host, int(port))
        except OSError:
            return writer.close()
        await asyncio.gather(pipe(reader, upstream[1]), pipe(upstream[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main(*sys.argv[1:]))
"#;

/// Speaks TLS for another server. Dropping it ends it.
pub struct Terminator {
    port: u16,
    _process: Process,
}

impl Terminator {
    /// Shows the certificate of [`make_certificate`] in `dir`; `upstream` is `host:port`.
    pub fn before(upstream: &str, dir: &Path) -> Self {
        let own = new_dir("tls");
        let script = own.join("terminator.py");
        fs::write(&script, TERMINATOR).unwrap();
        let (host, port) = upstream.split_once(':').unwrap();
        let mut command = Command::new(parts::python("python"));
        command.arg(&script).args([dir.join("server.pem"), dir.join("server.key")]);
        command.args([host, port]);
        let mut process = Process::start("the TLS server", command, &own.join("tls.log"));
        let port = process.wait_ready("listen", PATIENCE, |process| {
            let log = process.log();
            log.lines().find_map(|line| line.strip_prefix("listening ")?.trim().parse().ok())
        });
        Self { port, _process: process }
    }

    /// Its address.
    pub fn uri(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}
