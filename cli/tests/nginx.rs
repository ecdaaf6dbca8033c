//! A server behind a real nginx, as a reverse proxy that gathers bodies before it passes them on, and as one that does
//! not. Skipped, loudly, where there is no nginx.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::machines::served;
use crate::support::{Place, Server};

/// An nginx of our own, killed when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> Option<&'static Path> {
    let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx", "/usr/local/bin/nginx"];
    places.into_iter().map(Path::new).find(|path| path.exists())
}

// One process and no master, so that killing it ends all of it.
fn config(here: &str, port: u16, server: &str, buffering: &str) -> String {
    let mut temps = String::new();
    for temp in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        temps += &format!("  {temp}_temp_path {here}/nginx-{temp};\n");
    }
    format!(
        "daemon off;\nmaster_process off;\npid {here}/nginx.pid;\nerror_log {here}/nginx.log;\nevents {{}}\n\
         http {{\n{temps}  access_log {here}/access.log;\n  client_max_body_size 32m;\n  server {{\n\
         \x20   listen 127.0.0.1:{port};\n    location /a/store/ {{\n      proxy_pass http://{server}/;\n\
         \x20     proxy_http_version 1.1;\n      proxy_buffering {buffering};\n\
         \x20     proxy_request_buffering {buffering};\n    }}\n  }}\n}}\n"
    )
}

/// The URL of `server` as nginx shows it, below a path of its own.
fn nginx(place: &Place, program: &Path, server: &Server, buffering: &str) -> (Nginx, String) {
    let here = place.path("");
    let here = here.to_str().expect("UTF-8").trim_end_matches('/');
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    place.write("nginx.conf", config(here, port, &server.address, buffering));
    let mut command = Command::new(program);
    command.args(["-p", here, "-e"]).arg(place.path("nginx.log")).arg("-c").arg(place.path("nginx.conf"));
    let mut nginx = Nginx(command.stdin(Stdio::null()).spawn().expect("nginx starts"));
    let until = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = nginx.0.try_wait().expect("its state");
        let log = || fs::read_to_string(place.path("nginx.log"));
        assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {:?}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    (nginx, format!("http://127.0.0.1:{port}/a/store"))
}

fn behind_nginx(buffering: &str) {
    let Some(program) = program() else {
        eprintln!("SKIPPED: there is no nginx");
        return;
    };
    let (place, server) = served();
    let (open, url) = nginx(&place, program, &server, buffering);

    let new = place.report(&["publish", "v1", "--store", &url, "--name", "app@1"]);
    assert!(new["chunks_new"].as_u64() > Some(0), "{new}");
    place.report(&["sync", &url, "app@1", "dir"]);
    place.assert_equal("v1", "dir");
    place.report(&["publish", "v2", "--store", &url, "--name", "app@2"]);
    let update = place.report(&["sync", &url, "app@2", "dir"]);
    place.assert_equal("v2", "dir");
    assert!(update["requests"].as_u64() <= Some(3), "an update is one stream: {update}");
    let idle = place.report(&["sync", &url, "app@2", "dir"]);
    assert!(idle["bytes_fetched"].as_u64() <= Some(2048) && idle["requests"].as_u64() <= Some(2), "{idle}");
    assert_eq!(place.report(&["verify", &url])["sound"], true);
    assert_eq!(place.report(&["mirror", &url, "copy"])["names"], 3);

    let made = place.floe(&["serve", "token", "create", "--store", "store", "--role", "read"]);
    assert_eq!(made.exit, 0, "{made:?}");
    place.write("read.token", made.stdout);
    place.mode("read.token", 0o600);
    drop((open, server));
    let server = Server::start(&place, "store", &[]);
    let (_open, url) = nginx(&place, program, &server, buffering);
    let refused = place.floe(&["sync", &url, "app@2", "again"]);
    assert!(refused.exit == 1 && refused.stderr.contains("hint: give a token"), "{refused:?}");
    place.report(&["sync", &url, "app@2", "again", "--token-file", "read.token"]);
    place.assert_equal("v2", "again");
    let log = fs::read_to_string(place.path("nginx.log")).unwrap_or_default();
    assert!(!log.contains("[error]") && !log.contains("[crit]"), "{log}");
}

#[test]
fn behind_an_nginx_that_gathers_unless_there_is_none() {
    behind_nginx("on");
}

#[test]
fn behind_an_nginx_that_passes_on_at_once_unless_there_is_none() {
    behind_nginx("off");
}
