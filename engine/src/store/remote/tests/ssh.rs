//! Connections through a program, which here is a shell with a few lines.

use std::time::{Duration, Instant};

use super::{open, options};
use crate::error::Result;
use crate::store::remote::{RemoteOptions, RemoteStore};
use crate::store::{Name, NameRecord, Source};

// A server in shell: to each request without a body it answers with a name.
const SERVER: &str = r#"
echo "welcome" >&2
cr=$(printf '\r')
while read -r line; do
  [ "$line" = "$cr" ] || continue
  body="{\"name\":\"game@1\",\"version\":\"$(printf '%064d' 7)\",\"bound_unix_s\":1,\"sequence\":2}"
  printf 'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s' "${#body}" "$body"
done
"#;

fn store(script: &str, attempts: u32, silence: u64) -> RemoteStore {
    let ssh = ["sh", "-c", script, "ssh"].map(Into::into).to_vec();
    let options = RemoteOptions { ssh, silence: Duration::from_millis(silence), ..options(attempts) };
    open("ssh://me@host/srv/store", options)
}

fn resolve(store: &RemoteStore) -> Result<Option<NameRecord>> {
    store.resolve(&Name::parse("game@1").expect("a name"))
}

#[test]
fn a_program_carries_many_requests() {
    let store = store(SERVER, 1, 20_000);
    for _ in 0..3 {
        let record = resolve(&store).expect("told").expect("bound");
        assert_eq!((record.name.to_string().as_str(), record.sequence), ("game@1", 2));
    }
    assert_eq!(store.counters().requests(), 3);
    assert!(store.counters().received() > 3 * 100 && store.counters().sent() > 3 * 50);
}

#[test]
fn there_is_one_program_at_a_time() {
    let store = store(SERVER, 1, 20_000);
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| resolve(&store))).collect();
        for asked in asked {
            assert!(asked.join().expect("ran").expect("told").is_some());
        }
    });
}

#[test]
fn a_program_that_fails_says_why() {
    for (script, tries, expected) in [
        (
            "echo 'ssh: connect to host host port 22: Connection refused' >&2; exit 255",
            2,
            "Network: cannot reach store `ssh://me@host/srv/store` / the program to connect ended (exit status: 255): ssh: connect",
        ),
        (
            "echo 'me@host: Permission denied (publickey).' >&2; exit 255",
            1,
            "Denied: store `ssh://me@host/srv/store` refuses a connection",
        ),
        ("echo 'sh: floe: not found' >&2; exit 127", 1, "exit status: 127): sh: floe: not found"),
        ("test \"$1,$2\" = \"me@host,floe serve --stdio '/srv/store'\" && exit 9", 1, "exit status: 9"),
        ("cat >/dev/null; exit 3", 2, "silent for too long"),
        ("sleep 20", 2, "silent for too long"),
        (
            "echo 'error: store `/srv/store` is in use by process 7' >&2; exit 6",
            2,
            "Conflict: store `ssh://me@host/srv/store` is in use by process 7",
        ),
        ("kill -9 $$", 2, "signal: 9"),
        ("yes nonsense", 2, "cannot reach"),
        ("yes complaint >&2", 2, "silent for too long"),
        ("printf 'HTTP/1.1 200 OK\\r\\n'", 2, "cannot reach"),
    ] {
        let store = store(script, 2, if expected.contains("silent") { 150 } else { 20_000 });
        let begun = Instant::now();
        let error = resolve(&store).expect_err(script);
        let source =
            std::error::Error::source(&error).map_or_else(String::new, |source| format!(" / {source}"));
        let told = format!("{:?}: {error}{source}", error.class());
        assert!(told.contains(expected), "{script}: {told}");
        assert_eq!(store.counters().requests(), tries, "{script}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{script}");
    }
    let missing = RemoteOptions { ssh: vec!["/nowhere/ssh".into()], ..options(3) };
    let store = open("ssh://host/srv/store", missing);
    let error = resolve(&store).expect_err("no program");
    let source = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(source.contains("cannot run `/nowhere/ssh`"), "{source}");
    assert_eq!(store.counters().requests(), 1);
}
