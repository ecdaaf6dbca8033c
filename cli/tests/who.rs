//! Who may do what: tokens, where they come from, and certificates.

use std::fs;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::{Place, Ran, Server, first};

/// A served store with a token of each role, in files named like it; and one for another app.
fn guarded() -> (Place, Server) {
    let place = Place::new();
    first(&place, "v1");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    for (file, args) in [
        ("read", &["--role", "read"][..]),
        ("publish", &["--role", "publish", "--app", "app"]),
        ("admin", &["--role", "admin"]),
        ("other", &["--role", "publish", "--app", "other", "--expires", "90d"]),
        ("expired", &["--role", "admin", "--expires", "0s"]),
    ] {
        let ran = place.floe(&[&["serve", "token", "create", "--store", "store"], args].concat());
        assert_eq!((ran.exit, ran.stdout.lines().count()), (0, 1), "{ran:?}");
        place.write(&format!("{file}.token"), ran.stdout);
        place.mode(&format!("{file}.token"), 0o600);
    }
    let server = Server::start(&place, "store", &[]);
    (place, server)
}

fn with(place: &Place, args: &[&str], token: Option<&str>) -> Ran {
    let file = token.map(|token| format!("{token}.token"));
    let option = file.iter().flat_map(|file| ["--token-file", file]);
    place.floe(&args.iter().copied().chain(option).collect::<Vec<_>>())
}

#[test]
fn each_role_may_do_its_own_and_what_is_below() {
    let (place, server) = guarded();
    let url = &*server.url;
    let verbs = |name: &'static str| {
        [
            vec!["log", "--store", url],
            vec!["publish", "v1", "--store", url, "--name", name],
            vec!["prune", url, "--keep-last", "9"],
        ]
    };
    for (token, name, may) in [
        (None, "app@2", [false, false, false]),
        (Some("read"), "app@2", [true, false, false]),
        (Some("publish"), "app@2", [true, true, false]),
        (Some("publish"), "other@1", [true, false, false]),
        (Some("other"), "other@2", [true, true, false]),
        (Some("admin"), "third@1", [true, true, true]),
        (Some("expired"), "app@3", [false, false, false]),
    ] {
        for (args, may) in verbs(name).iter().zip(may) {
            let ran = with(&place, args, token);
            assert_eq!(ran.exit == 0, may, "{token:?} {args:?}: {ran:?}");
            if !may {
                assert!(ran.exit == 1 && ran.stderr.contains("hint: give a token"), "{ran:?}");
            }
        }
    }
    assert_eq!(place.report(&["verify", url, "--token-file", "admin.token"])["sound"], true);
}

#[test]
fn tokens_are_listed_and_revoked_while_it_runs() {
    let (place, server) = guarded();
    let list = ["serve", "token", "list", "--store", "store", "--json"];
    let listed = place.floe(&list).objects();
    assert_eq!(listed.len(), 6, "{listed:?}");
    assert!(listed.iter().all(|token| token["token"].is_null()), "{listed:?}");
    assert_eq!((&listed[4]["expired"], &listed[0]["expired"]), (&true.into(), &false.into()));
    let id = listed[0]["id"].as_str().expect("an id");
    assert_eq!(with(&place, &["log", "--store", &server.url], Some("read")).exit, 0);
    assert_eq!(place.floe(&["serve", "token", "revoke", id, "--store", "store"]).exit, 0);
    assert_eq!(with(&place, &["log", "--store", &server.url], Some("read")).exit, 1);
    let again = place.floe(&["serve", "token", "revoke", id, "--store", "store"]);
    assert!(again.exit == 1 && again.stderr.contains("hint: `floe serve token list"), "{again:?}");
    assert_eq!(place.floe(&["serve", "token", "list", "--store", "nowhere"]).exit, 1);
}

#[test]
fn a_token_comes_from_a_file_the_environment_or_the_credentials() {
    let (place, server) = guarded();
    let token = |name: &str| fs::read_to_string(place.path(&format!("{name}.token"))).expect("a token");
    let log = |set: &dyn Fn(&mut Command), more: &[&str]| {
        let mut command = place.command(&[&["log", "--store", &*server.url], more].concat());
        set(&mut command);
        place.ran(&mut command)
    };
    let read = token("read");
    assert_eq!(log(&|command| _ = command.env("FLOE_TOKEN", read.trim()), &[]).exit, 0);
    // The file that was named wins over the environment.
    place.write("bad.token", "floe_no");
    place.mode("bad.token", 0o600);
    let both = log(&|command| _ = command.env("FLOE_TOKEN", read.trim()), &["--token-file", "bad.token"]);
    assert_eq!(both.exit, 1, "{both:?}");

    place.mode("read.token", 0o640);
    let open = log(&|_| {}, &["--token-file", "read.token"]);
    assert!(open.exit == 2 && open.stderr.contains("0640"), "{open:?}");
    assert!(open.stderr.contains("hint: chmod 600 'read.token'"), "{open:?}");

    let credentials = format!("http://example.org no\n{} {read}", server.url);
    place.write("config/floe/credentials", credentials);
    place.mode("config/floe/credentials", 0o644);
    let open = log(&|_| {}, &[]);
    assert_eq!(open.exit, 2, "{open:?}");
    assert!(open.stderr.contains("0644") && open.stderr.contains("hint: chmod 600 "), "{open:?}");
    place.mode("config/floe/credentials", 0o600);
    assert_eq!(log(&|_| {}, &[]).exit, 0);
    let shown = log(&|command| _ = command.env("FLOE_TOKEN", "two words"), &[]);
    assert!(shown.exit == 2 && !shown.stderr.contains("two words"), "{shown:?}");
}

#[test]
fn a_token_goes_to_the_server_it_was_given_for_and_no_other() {
    let (place, server) = guarded();
    // With two servers, the token is for the one that is written to.
    place.report(&["publish", "v1", "--store", "second", "--name", "app@1"]);
    let open = Server::start(&place, "second", &["--insecure"]);
    let ran = with(&place, &["mirror", &server.url, &open.url], Some("admin"));
    assert_eq!(ran.exit, 1, "{ran:?}");
    let ran = with(&place, &["mirror", &open.url, &server.url], Some("admin"));
    assert_eq!(ran.exit, 0, "{ran:?}");
    let ran = with(&place, &["log", "--store", "http://192.0.2.1", "--retries", "0"], Some("read"));
    assert!(ran.exit == 2 && ran.stderr.contains("--insecure"), "{ran:?}");
}

#[test]
fn the_log_names_who_was_refused_and_a_tokens_file_that_is_open() {
    let (place, server) = guarded();
    drop(server);
    place.mode("store/tokens", 0o644);
    let server = Server::start(&place, "store", &["--log", "json"]);
    let listed = place.floe(&["serve", "token", "list", "--store", "store", "--json"]).objects();
    for token in [None, Some("read"), Some("expired")] {
        let args = ["prune", &*server.url, "--keep-last", "9", "--retries", "0"];
        assert_eq!(with(&place, &args, token).exit, 1);
    }
    place.floe(&["serve", "token", "create", "--store", "store", "--role", "read"]);
    drop(server);
    let log = fs::read_to_string(place.path("serve.log")).expect("a log");
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let lines: Vec<_> = lines.map(|line| line["fields"].clone()).collect();
    let callers: Vec<_> = lines.iter().filter_map(|line| line["caller"].as_str()).collect();
    let id = |at: usize| listed[at]["id"].as_str().expect("an id");
    for caller in ["127.0.0.1", id(0), id(4)] {
        assert!(callers.contains(&caller), "{caller}: {log}");
    }
    let warned =
        |line: &&serde_json::Value| line["message"].as_str().is_some_and(|text| text.contains("0644"));
    assert_eq!(lines.iter().filter(warned).count(), 1, "{log}");
    // Making a token makes the file private again.
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(place.path("store/tokens")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_would_let_everybody_in_is_refused() {
    let place = Place::new();
    first(&place, "v1");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    let ran = place.floe(&["serve", "store", "--listen", "0.0.0.0:0"]);
    assert!(ran.exit == 2 && ran.stderr.contains("insecure"), "{ran:?}");
    assert_eq!(place.floe(&["serve", "http://127.0.0.1:1"]).exit, 2);
    assert_eq!(place.floe(&["serve", "nowhere"]).exit, 1);
    assert_eq!(place.floe(&["serve"]).exit, 2);
    assert_eq!(place.floe(&["serve", "store", "--tls-cert", "x"]).exit, 2);
}

/// Writes an authority, a server's certificate for this machine and a client's, and their keys.
fn authority(place: &Place) {
    let key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    place.write("ca.pem", ca.pem());
    for name in ["127.0.0.1", "client"] {
        let own = key();
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        place.write(&format!("{name}.pem"), params.signed_by(&own, &ca).expect("signed").pem());
        place.write(&format!("{name}.key"), own.serialize_pem());
    }
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let place = Place::new();
    first(&place, "v1");
    authority(&place);
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    let tls = ["--tls-cert", "127.0.0.1.pem", "--tls-key", "127.0.0.1.key"];
    let server = Server::start(&place, "store", &tls);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let sync = ["sync", &*server.url, "app@1", "dir"];
    let stranger = place.floe(&[&sync[..], &["--retries", "0"]].concat());
    assert!(stranger.exit == 4 && stranger.stderr.contains("--ca FILE"), "{stranger:?}");
    place.report(&[&sync[..], &["--ca", "ca.pem"]].concat());
    place.assert_equal("v1", "dir");
    let publish = ["publish", "v1", "--store", &*server.url, "--name", "app@2", "--ca", "ca.pem"];
    place.report(&publish);
    drop(server);

    let server = Server::start(&place, "store", &[&tls[..], &["--client-ca", "ca.pem"]].concat());
    let log = ["log", "--store", &*server.url, "--ca", "ca.pem", "--retries", "0"];
    let nobody = place.floe(&log);
    assert!(nobody.exit != 0 && nobody.stderr.contains("hint: "), "{nobody:?}");
    place.report(&[&log[..], &["--client-cert", "client.pem", "--client-key", "client.key"]].concat());
}
