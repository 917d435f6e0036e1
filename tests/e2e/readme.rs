//! The README's examples, each run as printed.
//!
//! A block marked `sh` is run by a shell; the block marked `text` behind it, if there is one, is what it says. A block
//! marked `console` is a session on a terminal: `$ ` stands before the command, `/ # ` before what is typed in the guest.
//! What differs from run to run stands as `...` in what is said: within a line any text, as a line any lines. All else is
//! compared to the letter, but for space at the ends. Blocks of one test share a directory and a store, in which the lab's
//! images have the names that the README calls them by. What is indented are commands of the Makefile, which is compared
//! with them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::process::{Command, Stdio};

use rvm_tests::{artifact, daemon};
use serde_json::{Value, json};

use crate::process::run;
use crate::run::place::Place;
use crate::terminal::Terminal;

const README: &str = include_str!("../../README.md");
const MAKEFILE: &str = include_str!("../../Makefile");

/// The lab's images that the README uses.
const IMAGES: [&str; 3] = ["alpine", "nginx", "python"];

/// What the guest's shell says when it is ready.
const PROMPT: &str = "/ # ";

/// Makes a test of blocks of the README, each told by how it begins.
macro_rules! examples {
    ($($name:ident: $($beginning:literal),+;)+) => {
        $(#[test]
        fn $name() {
            run_blocks(&[$($beginning),+]);
        })+

        /// How the blocks begin that have a test.
        const TESTED: &[&str] = &[$($($beginning),+),+];
    };
}

examples! {
    doctor: "rvm doctor";
    hello_world: "rvm run --rm alpine echo";
    shell_in_a_container: "$ rvm run -it";
    web_server: "rvm run -d --name web", "curl ", "rvm exec web";
    directory_of_the_host: "mkdir shared";
    untrusted_script: "echo 'print";
    time_limit: "echo 'while";
    memory_limit: "rvm run --rm -m 64M";
    docker: "docker run -d --name web";
    containerd: "ctr run -d";
    boot_a_command: "rvm boot -- echo";
    processors_and_memory: "rvm boot --cpus 2 --memory";
    disk_and_configuration: "truncate ", "rvm boot --cpus 2 --disk";
    network_card: "ip tuntap";
    shell_in_a_machine: "$ rvm boot";
}

#[test]
fn every_block_has_a_test() {
    for block in blocks() {
        let tests = TESTED.iter().filter(|beginning| block.text.starts_with(**beginning)).count();
        assert_eq!(tests, 1, "tests of this block:\n{}", block.text);
    }
    let commands = README.lines().filter_map(|line| line.strip_prefix("    "));
    for command in commands.filter(|command| !command.starts_with('#')) {
        let target = command.strip_prefix("make ").and_then(|words| words.split(' ').next());
        let target = target.unwrap_or_else(|| panic!("'{command}' belongs in a block that is run"));
        assert!(MAKEFILE.contains(&format!("\n{target}:")), "'make {target}' is in the Makefile");
    }
}

#[test]
fn dots_stand_for_what_differs() {
    assert!(says("a ... c\n...\nd", "a b b c\nx\ny\nd  \n"));
    assert!(says("...", ""));
    assert!(!says("a", "a\nb"));
    assert!(!says("a\nb", "a"));
    assert!(!says("a ... c", "a c"));
    assert!(!says("a...ab", "ab"));
}

/// A block of the README that is run.
struct Block {
    kind: &'static str,
    text: &'static str,
    /// What it says, if the README tells.
    said: Option<&'static str>,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    // Text and blocks take turns; a block begins with its kind.
    for block in README.split("```").skip(1).step_by(2) {
        let (kind, text) = block.split_once('\n').unwrap();
        match (kind, blocks.last_mut()) {
            ("sh" | "console", _) => blocks.push(Block { kind, text, said: None }),
            ("text", Some(Block { kind: "sh", said: said @ None, .. })) => *said = Some(text),
            _ => panic!("there is no test for a block '{kind}' here:\n{text}"),
        }
    }
    blocks
}

/// Runs the blocks that begin so, in this order.
fn run_blocks(beginnings: &[&str]) {
    let mut blocks = blocks();
    blocks.retain(|block| beginnings.iter().any(|beginning| block.text.starts_with(beginning)));
    assert_eq!(blocks.len(), beginnings.len(), "blocks that begin with {beginnings:?}");
    match give_to_daemons(&blocks) {
        Err(error @ daemon::Error::NotHere { .. }) => return rvm_tests::cannot_run(&error.to_string()),
        given => given.unwrap(),
    }
    let place = place(&blocks);
    for block in blocks {
        match block.kind {
            "sh" => run_script(&place, &block),
            _ => run_session(&place, block.text),
        }
    }
}

fn run_script(place: &Place, block: &Block) {
    // What it says on both streams, in the order in which a terminal would show it.
    let ran = run(shell(place, &format!("exec 2>&1\n{}", block.text)));
    println!("--- {}{}", block.text, ran.out);
    assert_eq!(ran.status, Some(0), "the status of:\n{}{}", block.text, ran.out);
    if let Some(said) = block.said {
        assert!(says(said, &ran.out), "it says\n{said}and not\n{}", ran.out);
    }
}

/// Types what the session has behind its prompts, and compares what is said before the next one.
fn run_session(place: &Place, session: &str) {
    let (command, session) = session.strip_prefix("$ ").unwrap().split_once('\n').unwrap();
    let mut terminal = Terminal::start(shell(place, &format!("exec {command}")), None);
    let mut steps = session.split(PROMPT);
    assert_eq!(steps.next(), Some(""), "the guest's prompt comes first");
    terminal.screen.wait_for(PROMPT);
    for step in steps {
        let (typed, said) = step.split_once('\n').unwrap();
        terminal.types(format!("{typed}\r").as_bytes());
        if typed == "exit" {
            break;
        }
        terminal.screen.wait_for(&format!("{typed}\r\n"));
        let heard = terminal.screen.wait_for(PROMPT);
        println!("--- {typed}\n{heard}");
        assert!(says(said, &heard), "'{typed}' says\n{said}and not\n{heard}");
    }
    terminal.ends(0);
}

/// A shell that ends where a command fails, with `rvm` in its path.
fn shell(place: &Place, script: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.args(["-e", "-u", "-o", "pipefail", "-c", script]).stdin(Stdio::null());
    shell.env("PATH", format!("{}:{path}", artifact::directory().display()));
    shell.env("RVM_RUNTIME", place.path("run")).env("RVM_DATA", place.path("data"));
    shell.current_dir(place.path("work"));
    shell
}

/// A place that has the images of these blocks, by the names that they have on the Docker Hub.
fn place(blocks: &[Block]) -> Place {
    let is_used = |image: &&str| {
        blocks
            .iter()
            .any(|block| block.text.contains("rvm run") && words(block.text).any(|word| word == *image))
    };
    let images: Vec<&str> = IMAGES.into_iter().filter(is_used).collect();
    if images.is_empty() {
        return Place::empty();
    }
    let place = Place::with(&images);
    // An archive of names alone: what they stand for is there.
    let names = place.path("names");
    fs::create_dir_all(names.join("blobs/sha256")).unwrap();
    let layout = daemon::images().unwrap().join("oci");
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut entries = Vec::new();
    for entry in index["manifests"].as_array().unwrap() {
        let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
        if images.contains(&name) {
            let mut entry = entry.clone();
            entry["annotations"] =
                json!({ "io.containerd.image.name": format!("docker.io/library/{name}:latest") });
            let blob = entry["digest"].as_str().unwrap().replace(':', "/");
            fs::copy(layout.join("blobs").join(&blob), names.join("blobs").join(&blob)).unwrap();
            entries.push(entry);
        }
    }
    fs::write(names.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    fs::write(names.join("index.json"), index.to_string()).unwrap();
    let archive = place.text("names.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&names).args(["-cf", &archive, "oci-layout", "index.json", "blobs"]);
    assert!(tar.status().unwrap().success());
    place.said(&["load", "--quiet", "--input", &archive]);
    place
}

/// Gives Docker and containerd the images of blocks that use them, by the names that they have on the Docker Hub.
fn give_to_daemons(blocks: &[Block]) -> Result<(), daemon::Error> {
    let begins = |word: &str| blocks.iter().any(|block| block.text.starts_with(word));
    let given = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments);
        let ran = run(command);
        assert_eq!(ran.status, Some(0), "{program} {arguments:?}: {ran:?}");
    };
    if begins("docker ") {
        daemon::docker()?;
        daemon::registry()?;
        given("docker", &["pull", "--quiet", "localhost:5000/nginx"]);
        given("docker", &["tag", "localhost:5000/nginx", "nginx"]);
    }
    if begins("ctr ") {
        daemon::containerd()?;
        daemon::registry()?;
        given("ctr", &["images", "pull", "--local", "--plain-http", "localhost:5000/alpine:latest"]);
        given("ctr", &["images", "tag", "localhost:5000/alpine:latest", "docker.io/library/alpine:latest"]);
    }
    Ok(())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_ascii_whitespace()
}

/// Whether `heard` is what `expected` says, apart from what stands there as `...`.
fn says(expected: &str, heard: &str) -> bool {
    let heard: Vec<&str> = heard.trim_end().lines().map(str::trim_end).collect();
    let expected: Vec<&str> = expected.lines().collect();
    lines_say(&expected, &heard)
}

fn lines_say(expected: &[&str], heard: &[&str]) -> bool {
    match expected {
        [] => heard.is_empty(),
        ["...", rest @ ..] => (0..=heard.len()).any(|more| lines_say(rest, &heard[more..])),
        [line, rest @ ..] => {
            heard.split_first().is_some_and(|(first, after)| line_says(line, first) && lines_say(rest, after))
        }
    }
}

fn line_says(expected: &str, heard: &str) -> bool {
    let Some((before, rest)) = expected.split_once("...") else { return expected == heard };
    let Some(heard) = heard.strip_prefix(before) else { return false };
    (0..=heard.len()).any(|any| heard.get(any..).is_some_and(|heard| line_says(rest, heard)))
}
