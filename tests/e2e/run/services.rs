//! Services as Debian has them, unmodified, in images as the Docker Hub has them.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use super::network::{fetch, published};
use super::place::{Place, image};
use crate::process::{Running, run};

#[test]
fn python_serves_a_volume() {
    let place = Place::with(&["python"]);
    fs::write(place.path("work/page"), "served by python\n").unwrap();
    let python = image("python");
    place.said(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1::8000",
        "-v",
        ".:/srv:ro",
        "-w",
        "/srv",
        &python,
        "python3",
        "-u",
        "-m",
        "http.server",
        "8000",
    ]);
    assert_eq!(fetch(published(&place, "web", "8000/tcp"), "/page"), "served by python\n");
    let logs = place.run(&["logs", "web"]);
    assert!(logs.error.contains("GET /page"), "{logs:?}");
    let sum = place.said(&[
        "exec",
        "web",
        "python3",
        "-c",
        "import hashlib; print(hashlib.sha256(b'x').hexdigest()[:8])",
    ]);
    assert_eq!(sum, "2d711642\n");
}

#[test]
fn web_servers_serve_log_and_end_as_they_are_told() {
    let place = Place::with(&["nginx", "httpd"]);
    fs::write(place.path("work/index.html"), "a page\n").unwrap();
    for name in ["nginx", "httpd"] {
        place.said(&[
            "run",
            "-d",
            "--name",
            name,
            "-p",
            "127.0.0.1::80",
            "-v",
            ".:/var/www/html:ro",
            &image(name),
        ]);
    }
    for name in ["nginx", "httpd"] {
        assert_eq!(fetch(published(&place, name, "80/tcp"), "/index.html"), "a page\n");
    }
    // Its log is a link to /dev/stdout.
    let logs = place.run(&["logs", "nginx"]);
    assert!(logs.out.contains("GET /index.html"), "{logs:?}");
    // Their images name the signals by which they end in order.
    assert_eq!(place.said(&["stop", "nginx", "httpd"]), "nginx\nhttpd\n");
    assert_eq!(place.said(&["wait", "nginx", "httpd"]), "0\n0\n");
}

/// What the database answers to `statement`.
#[track_caller]
fn ask(address: SocketAddr, statement: &str) -> String {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--host", &address.ip().to_string()]);
    psql.args(["--port", &address.port().to_string(), "--username", "postgres", "--command", statement]);
    let ran = run({
        psql.env("PGPASSWORD", "secret");
        psql
    });
    assert_eq!((ran.status, ran.error.as_str()), (Some(0), ""), "{statement}: {ran:?}");
    ran.out
}

#[test]
fn a_database_survives_its_containers() {
    let place = Place::with(&["postgres"]);
    let postgres = image("postgres");
    let start = || {
        place.said(&[
            "run",
            "-d",
            "--name",
            "db",
            "-e",
            "POSTGRES_PASSWORD=secret",
            "-p",
            "127.0.0.1::5432",
            "-v",
            "data:/var/lib/postgresql/data",
            &postgres,
        ]);
        place.start(&["logs", "-f", "db"])
    };
    let address_when_ready = |mut logs: Running| {
        logs.error.wait_for("database system is ready to accept connections");
        published(&place, "db", "5432/tcp")
    };
    let mut logs = start();
    // Long, where a processor is emulated; it tells how it gets on.
    logs.out.wait_for("Success.");
    let database = address_when_ready(logs);
    ask(database, "CREATE TABLE kept AS SELECT n, repeat('x', n) AS text FROM generate_series(1, 1000) AS n");
    assert_eq!(place.said(&["stop", "-t", "60", "db"]), "db\n");
    let logs = place.run(&["logs", "db"]);
    assert!(logs.error.contains("database system is shut down"), "{logs:?}");
    assert_eq!(place.said(&["wait", "db"]), "0\n");
    place.said(&["rm", "db"]);

    let database = address_when_ready(start());
    assert_eq!(ask(database, "SELECT count(*), sum(length(text)) FROM kept"), "1000|500500\n");
    // Without a farewell it recovers from its journal.
    ask(database, "INSERT INTO kept VALUES (0, 'committed')");
    place.said(&["rm", "-f", "db"]);
    let database = address_when_ready(start());
    assert_eq!(ask(database, "SELECT text FROM kept WHERE n = 0"), "committed\n");
}
