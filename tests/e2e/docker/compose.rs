//! What people compose: a web application and its database, on a network of their own.

use std::fs;

use super::network::fetch;
use super::place::{Docker, RUNTIME};

const DATABASE: &str = "localhost:5000/postgres";
const WEB: &str = "localhost:5000/python";

/// The application: counts its visits in the database, which it knows by name.
const APPLICATION: &str = r#"
import http.server, psycopg2

class Visits(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with psycopg2.connect(host="rvm-shop-db", user="postgres", password="secret") as database:
            cursor = database.cursor()
            cursor.execute("CREATE TABLE IF NOT EXISTS visits (path text)")
            cursor.execute("INSERT INTO visits VALUES (%s)", (self.path,))
            cursor.execute("SELECT count(*) FROM visits")
            answer = f"visit {cursor.fetchone()[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

http.server.HTTPServer(("", 8000), Visits).serve_forever()
"#;

#[test]
fn a_web_application_finds_its_database_and_the_database_its_data() {
    let Some(docker) = Docker::with(DATABASE) else { return };
    docker.pull(WEB);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("web.py"), APPLICATION).unwrap();
    let source = format!("{}:/srv:ro", directory.path().display());
    let data = "rvm-shop-data:/var/lib/postgresql/data";
    let password = "POSTGRES_PASSWORD=secret";
    docker.said(&["network", "create", "rvm-shop"]);
    // The data is made by the default runtime: long, where a processor is emulated, and longer where it is a guest's.
    docker.said(&["run", "--rm", "-e", password, "-v", data, DATABASE, "postgres", "--version"]);

    let common = ["run", "-d", "--runtime", RUNTIME, "--network", "rvm-shop"];
    let database = ["--name", "rvm-shop-db", "-e", password, "-v", data, DATABASE];
    docker.said(&[&common[..], &database].concat());
    let web =
        ["--name", "rvm-shop-web", "-p", "8191:8000", "-v", &source, WEB, "python3", "-u", "/srv/web.py"];
    docker.said(&[&common[..], &web].concat());
    let ready = "until pg_isready --quiet; do sleep 1; done";
    docker.exec("rvm-shop-db", ready);
    assert_eq!(fetch("http://127.0.0.1:8191/"), "visit 1\n");
    assert_eq!(fetch("http://127.0.0.1:8191/"), "visit 2\n");

    docker.said(&["restart", "rvm-shop-db"]);
    docker.exec("rvm-shop-db", ready);
    let logs = docker.try_to(&["logs", "rvm-shop-db"]);
    assert!(logs.error.contains("database system is shut down"), "{logs:?}");
    assert_eq!(fetch("http://127.0.0.1:8191/"), "visit 3\n");
    docker.remove(&["rvm-shop-web", "rvm-shop-db"]);
    docker.said(&["volume", "rm", "rvm-shop-data"]);
    docker.said(&["network", "rm", "rvm-shop"]);
}
