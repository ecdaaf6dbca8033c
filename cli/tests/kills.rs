//! Killed with SIGKILL at moments that are bytes, not times: in all, less than a unit comes twice. A proxy counts what
//! comes to the client; at each moment it lets nothing more through, so that nothing is under way when the kill falls.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::ssh::{self, sshd};
use crate::support::{Place, Server, noise};

const UNIT: u64 = 2 << 20;
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Flow {
    came: u64,
    // Where it holds.
    mark: u64,
    connections: Vec<TcpStream>,
}

/// Between clients and whatever listens at a port of this machine.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    shared: Arc<(Mutex<Flow>, Condvar)>,
}

impl Proxy {
    pub fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let flow = Flow { mark: u64::MAX, ..Flow::default() };
        let proxy = Proxy { port, shared: Arc::new((Mutex::new(flow), Condvar::new())) };
        let accepting = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // While there is no server there is no answer.
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                accepting.join(&client, &server);
                accepting.join(&server, &client);
            }
        });
        proxy
    }

    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.shared.0.lock().expect("not poisoned")
    }

    // The address of a server is the sink of what is counted; a client's is not.
    fn join(&self, from: &TcpStream, to: &TcpStream) {
        let [mut from, mut to] = [from, to].map(|end| end.try_clone().expect("a handle"));
        let counted = to.local_addr().expect("its address").port() == self.port;
        self.flow().connections.push(from.try_clone().expect("a handle"));
        let proxy = self.clone();
        thread::spawn(move || {
            let mut piece = [0; 16 << 10];
            while let Ok(got @ 1..) = from.read(&mut piece) {
                if counted && !proxy.let_through(got as u64) || to.write_all(&piece[..got]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }

    // False if the connections were cut meanwhile.
    fn let_through(&self, bytes: u64) -> bool {
        let mut flow = self.flow();
        if flow.came >= flow.mark {
            self.shared.1.notify_all();
            while !flow.connections.is_empty() {
                flow = self.shared.1.wait(flow).expect("not poisoned");
            }
            return false;
        }
        flow.came += bytes;
        true
    }

    /// Lets `bytes` through from now on, give or take a piece.
    pub fn hold_after(&self, bytes: u64) {
        let mut flow = self.flow();
        flow.mark = flow.came.saturating_add(bytes);
    }

    /// Waits until it holds.
    pub fn held(&self) {
        let until = Instant::now() + LONGEST;
        let mut flow = self.flow();
        while flow.came < flow.mark {
            assert!(Instant::now() < until, "{} bytes came, not {}", flow.came, flow.mark);
            flow = self.shared.1.wait_timeout(flow, Duration::from_millis(50)).expect("not poisoned").0;
        }
    }

    /// Ends all connections, and what they were to bring.
    pub fn cut(&self) {
        for connection in self.flow().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        self.shared.1.notify_all();
    }

    /// What came, since it was last asked for.
    pub fn came(&self) -> u64 {
        std::mem::take(&mut self.flow().came)
    }
}

// Bytes that a sync has kept so far.
fn kept(dir: &Path) -> u64 {
    let len = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    let mut stage = fs::read_dir(dir.join("stage")).into_iter().flatten().flatten();
    let staged = stage.by_ref().map(|entry| {
        use std::os::unix::fs::MetadataExt;
        entry.metadata().map_or(0, |meta| meta.blocks())
    });
    staged.sum::<u64>() + len(&dir.join("arrivals")) + len(&dir.join("nodes"))
}

/// Waits until the client has done all it can with what came.
pub fn quiet(dir: &Path) {
    let (mut last, mut since) = (u64::MAX, Instant::now());
    let until = Instant::now() + LONGEST;
    while since.elapsed() < Duration::from_millis(200) && Instant::now() < until {
        let now = kept(&dir.join(".floe"));
        if now != last {
            (last, since) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two versions of a tree of large and small files, published; the second keeps half.
pub fn published() -> Place {
    let place = Place::new();
    for (tree, name, seed) in [("v1", "app@1", 1000), ("v2", "app@2", 2000)] {
        for (at, len) in [(1, 9 << 20), (2, 7 << 20), (3, 2 << 20)] {
            place.write(&format!("{tree}/large-{at}.bin"), noise(seed + at, len));
        }
        place.write(&format!("{tree}/same.bin"), noise(7, 8 << 20));
        for at in 0..150 {
            let seed = if at % 2 == 0 { at } else { seed + at };
            place.write(&format!("{tree}/small/{at}.bin"), noise(100_000 + seed, 5_000 + 400 * at as usize));
        }
        place.report(&["publish", tree, "--store", "store", "--name", name]);
    }
    place
}

/// How to reach the store, and what is killed there.
struct Way<'a> {
    place: &'a Place,
    proxy: &'a Proxy,
    url: &'a str,
    ssh: &'a str,
    kill_server: &'a mut dyn FnMut(),
}

impl Way<'_> {
    fn begin(&self, name: &str, dir: &str) -> Child {
        let args = ["sync", self.url, name, dir, "--retries", "20", "--json", "--ssh-floe"];
        let mut command = self.place.command(&[&args[..], &[env!("CARGO_BIN_EXE_floe")]].concat());
        let command = command.env("FLOE_SSH", self.ssh).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    }

    fn end(&self, child: Child) {
        let done = child.wait_with_output().expect("it ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    // From where the replica `dir` is to `name`; the bytes that it takes when nothing happens to it.
    fn whole(&mut self, name: &str, dir: &str) -> u64 {
        self.proxy.hold_after(u64::MAX);
        self.proxy.came();
        self.end(self.begin(name, dir));
        self.proxy.came()
    }

    fn killed(&mut self, name: &str, dir: &str, whole: u64, client: bool) -> u64 {
        const KILLS: u64 = 6;
        self.proxy.came();
        let mut child = None;
        for turn in 0..KILLS {
            // Uneven steps.
            self.proxy.hold_after(whole / (KILLS + 1) + turn * 31_013);
            if !client && turn > 0 {
                self.proxy.cut();
                (self.kill_server)();
            }
            let mut running = child.take().unwrap_or_else(|| self.begin(name, dir));
            self.proxy.held();
            quiet(&self.place.path(dir));
            if client {
                running.kill().expect("killed");
                running.wait().expect("it ends");
                self.proxy.cut();
            } else {
                child = Some(running);
            }
        }
        self.proxy.hold_after(u64::MAX);
        if let Some(child) = child {
            self.proxy.cut();
            (self.kill_server)();
            self.end(child);
        } else {
            self.end(self.begin(name, dir));
        }
        self.proxy.came()
    }

    fn every_kill(&mut self) {
        let fresh = self.whole("app@1", "plain");
        let update = self.whole("app@2", "plain");
        assert!(fresh > 26 << 20 && update > 19 << 20, "{fresh} {update}");
        for client in [true, false] {
            let dir = if client { "client" } else { "server" };
            for (name, tree, whole) in [("app@1", "v1", fresh), ("app@2", "v2", update)] {
                let came = self.killed(name, dir, whole, client);
                println!("{dir} killed, {name}: {came} bytes in place of {whole}");
                assert!(came < whole + UNIT, "{dir} killed, {name}: {came} bytes in place of {whole}");
                self.place.assert_equal(tree, dir);
                assert!(!self.place.path(dir).join(".floe/arrivals").exists());
            }
            assert_eq!(self.place.report(&["verify", dir])["sound"], true);
        }
    }
}

#[test]
fn killed_over_and_over_over_http() {
    let place = published();
    let mut server = Some(Server::start(&place, "store", &[]));
    let address = server.as_ref().expect("just started").address.clone();
    let port = address.rsplit_once(':').expect("a port").1.parse().expect("a number");
    let proxy = Proxy::start(port);
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let kill_server = &mut || {
        drop(server.take());
        server = Some(Server::listen(&place, "store", &address, &[]));
    };
    Way { place: &place, proxy: &proxy, url: &url, ssh: "ssh", kill_server }.every_kill();
}

#[test]
fn a_mirror_goes_on_within_the_unit_where_the_first_source_died() {
    let place = published();
    place.report(&["mirror", "store", "copy"]);
    let servers = ["store", "copy"].map(|store| Server::start(&place, store, &[]));
    let port =
        |server: &Server| server.address.rsplit_once(':').expect("a port").1.parse().expect("a number");
    let proxies = servers.each_ref().map(|server| Proxy::start(port(server)));
    let [first, second] = proxies.each_ref().map(|proxy| format!("http://127.0.0.1:{}", proxy.port));
    let [first_server, _second_server] = servers;
    let mut first_server = Some(first_server);
    for (name, tree) in [("app@1", "v1"), ("app@2", "v2")] {
        // The first from nothing and the second as an update, each with the first source dying on the way.
        let server = first_server.take().expect("running");
        let _ = proxies.each_ref().map(Proxy::came);
        place.report(&["sync", &first, name, "plain"]);
        let whole = proxies[0].came();
        let args = ["sync", &*first, name, "dir", "--mirror", &*second, "--retries", "0", "--json"];
        proxies[0].hold_after(whole / 3 + 777);
        let child = place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        proxies[0].held();
        quiet(&place.path("dir"));
        let address = server.kill();
        proxies[0].cut();
        let done = child.expect("it starts").wait_with_output().expect("it ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        place.assert_equal(tree, "dir");
        let [before, after] = proxies.each_ref().map(Proxy::came);
        assert!(before >= whole / 3 && after > whole / 3, "{name}: {before} and {after} of {whole}");
        assert!(before + after < whole + UNIT, "{name}: {before} and {after} of {whole}");
        proxies[0].hold_after(u64::MAX);
        first_server = Some(Server::listen(&place, "store", &address, &[]));
    }
}

#[test]
fn killed_over_and_over_over_ssh() {
    let place = published();
    let Some((_sshd, port)) = sshd(&place) else { return };
    let proxy = Proxy::start(port);
    let store = place.path("store");
    let url = format!("ssh://127.0.0.1:{}{}", proxy.port, store.display());
    let kill_server = &mut || kill_stdio_servers(&store);
    Way { place: &place, proxy: &proxy, url: &url, ssh: &ssh::command(&place), kill_server }.every_kill();
}

// Those that serve this very store through a pipe.
fn kill_stdio_servers(store: &Path) {
    let store = store.to_str().expect("UTF-8").as_bytes();
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).collect();
        if words.contains(&&b"--stdio"[..]) && words.contains(&store) {
            let pid = entry.file_name().into_string().expect("a number");
            // It may have noticed by itself that nobody is there any more.
            let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}
