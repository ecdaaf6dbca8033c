//! Stores behind ssh://: through a program in place of ssh, and through a real sshd on this machine.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Ran, first, second};

/// Every verb at a store that is there already, over `url`.
fn every_verb(place: &Place, url: &str, floe: &dyn Fn(&[&str]) -> Ran) {
    first(place, "v1");
    second(place, "v2");
    place.write("v0/a", "a");
    place.report(&["publish", "v0", "--store", "store", "--name", "other@1"]);
    let fine = |args: &[&str]| {
        let ran = floe(&[args, &["--json"]].concat());
        assert_eq!(ran.exit, 0, "{args:?}: {ran:?}");
        ran.last_object()
    };
    fine(&["publish", "v1", "--store", url, "--name", "app@1"]);
    fine(&["publish", "v2", "--store", url, "--name", "app@2"]);
    for (name, tree) in [("app@1", "v1"), ("app@2", "v2")] {
        fine(&["plan", url, name, "dir"]);
        fine(&["sync", url, name, "dir"]);
        place.assert_equal(tree, "dir");
    }
    fine(&["diff", "app@1", "app@2", "--store", url]);
    fine(&["ls", "app@1", "--store", url]);
    assert_eq!(fine(&["log", "--store", url])["names"], 3);
    assert_eq!(fine(&["verify", url])["sound"], true);
    assert_eq!(fine(&["verify", "dir", "--repair", url])["sound"], true);
    assert_eq!(fine(&["mirror", url, "copy"])["names"], 3);
    assert_eq!(fine(&["mirror", "copy", url])["unchanged"], true);
    assert_eq!(fine(&["prune", url, "--keep-last", "1", "--grace", "0s"])["names_removed"][0], "app@1");
    // The process on the other side notices a moment later that nobody is there any more.
    let until = Instant::now() + Duration::from_secs(20);
    while place.floe(&["log", "--store", "store"]).exit == 6 {
        assert!(Instant::now() < until, "a server outlives its connection");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
}

/// A script that runs here what ssh would run there.
fn script(place: &Place) -> String {
    place.write("ssh.sh", "#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\nexec sh -c \"$1\"\n");
    place.mode("ssh.sh", 0o755);
    place.path("ssh.sh").to_str().expect("UTF-8").to_owned()
}

#[test]
fn every_verb_through_a_program_in_place_of_ssh() {
    let place = Place::new();
    let ssh = script(&place);
    let url = format!("ssh://me@host{}", place.path("store").display());
    every_verb(&place, &url, &|args| {
        let mut command = place.command(&[args, &["--ssh-floe", env!("CARGO_BIN_EXE_floe")]].concat());
        place.ran(command.env("FLOE_SSH", &ssh))
    });
}

#[test]
fn what_ssh_or_the_floe_behind_it_says_is_told() {
    let place = Place::new();
    let ssh = script(&place);
    let url = |name: &str| format!("ssh://host{}", place.path(name).display());
    place.write("no.sh", "#!/bin/sh\necho 'me@host: Permission denied (publickey).' >&2\nexit 255\n");
    place.mode("no.sh", 0o755);
    let no = place.path("no.sh");
    for (program, store, floe, exit, says) in [
        (&*ssh, "nowhere", env!("CARGO_BIN_EXE_floe"), 5, "no store in"),
        (&*ssh, "store", "no-floe-here", 5, "--ssh-floe"),
        (no.to_str().expect("UTF-8"), "store", "floe", 1, "Permission denied"),
        ("/nonexistent/ssh", "store", "floe", 5, "/nonexistent/ssh"),
    ] {
        let args = ["log", "--store", &url(store), "--ssh-floe", floe, "--retries", "0"];
        let ran = place.ran(place.command(&args).env("FLOE_SSH", program));
        assert!(ran.exit == exit && ran.stderr.contains(says), "{says}: {ran:?}");
    }
}

#[test]
fn a_server_over_standard_input_ends_with_it() {
    let place = Place::new();
    place.write("v0/a", "a");
    place.report(&["publish", "v0", "--store", "store", "--name", "a@1"]);
    let ran = place.floe(&["serve", "--stdio", "store"]);
    assert_eq!((ran.exit, &*ran.stdout), (0, ""), "{ran:?}");
}

/// An sshd of our own, killed when dropped.
pub struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keygen(place: &Place, name: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place.path(name));
    assert!(command.status().expect("ssh-keygen runs").success());
}

/// Starts an sshd with throw-away keys, for the user of this test; `None` if that cannot be, told loudly.
pub fn sshd(place: &Place) -> Option<(Sshd, u16)> {
    if !Path::new("/usr/sbin/sshd").exists() {
        println!("SKIPPED: there is no /usr/sbin/sshd");
        return None;
    }
    keygen(place, "host");
    keygen(place, "key");
    fs::copy(place.path("key.pub"), place.path("authorized")).expect("copied");
    let here = place.path("");
    let here = here.to_str().expect("UTF-8");
    let config = format!(
        "ListenAddress 127.0.0.1\nHostKey {here}/host\nAuthorizedKeysFile {here}/authorized\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    );
    place.write("sshd.conf", config);
    // What the distribution's service makes; only root can, and only root's sshd needs it.
    let _ = fs::create_dir_all("/run/sshd");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number").port();
    let log = fs::File::create(place.path("sshd.log")).expect("a log");
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-e", "-p", &port.to_string(), "-f"]).arg(place.path("sshd.conf"));
    let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("sshd starts");
    let mut sshd = Sshd(child);
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = sshd.0.try_wait().expect("its state");
        assert!(
            ended.is_none() && Instant::now() < until,
            "{ended:?}: {:?}",
            fs::read_to_string(place.path("sshd.log"))
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((sshd, port))
}

/// The words that reach that sshd.
pub fn command(place: &Place) -> String {
    let here = place.path("");
    let here = here.to_str().expect("UTF-8").trim_end_matches('/');
    format!(
        "ssh -F none -i {here}/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new \
         -o UserKnownHostsFile={here}/known -o BatchMode=yes"
    )
}

#[test]
fn every_verb_through_a_real_sshd() {
    let place = Place::new();
    let Some((_sshd, port)) = sshd(&place) else { return };
    let here = place.path("");
    let here = here.to_str().expect("UTF-8").trim_end_matches('/');
    let ssh = command(&place);
    let url = format!("ssh://127.0.0.1:{port}{here}/store");
    every_verb(&place, &url, &|args| {
        let mut command = place.command(&[args, &["--ssh-floe", env!("CARGO_BIN_EXE_floe")]].concat());
        place.ran(command.env("FLOE_SSH", &ssh))
    });
}
