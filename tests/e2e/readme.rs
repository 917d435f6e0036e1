//! The README's examples, each run as printed.
//!
//! A block marked `sh` is run by a shell in one directory for all; the `text` block behind it, if there is one, has
//! lines that its output holds. Only the interactive shell is not run here: the console's own tests do that.

use std::path::Path;
use std::process::Command;

use rvm_tests::artifact;

const README: &str = include_str!("../../README.md");

/// The contents of the blocks marked `sh`, each with the lines its output must hold.
fn examples() -> Vec<(String, Vec<&'static str>)> {
    let mut examples: Vec<(String, Vec<&str>)> = Vec::new();
    let mut blocks = README.split("```");
    // Text and blocks take turns; a block begins with its mark.
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        match block.split_once('\n') {
            Some(("sh", script)) => examples.push((script.to_owned(), Vec::new())),
            Some(("text", output)) => {
                if let Some((_, expected)) = examples.last_mut() {
                    expected.extend(output.lines());
                }
            }
            _ => {}
        }
    }
    examples
}

fn run(script: &str, directory: &Path) -> (bool, String) {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .current_dir(directory)
        .env("PATH", format!("{}:{path}", artifact::directory().display()))
        .output()
        .expect("bash runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn every_example_of_the_readme_works_as_printed() {
    let directory = std::env::temp_dir().join(format!("rvm-readme-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("the directory is new");
    let examples = examples();
    assert!(examples.len() >= 6, "the README has its examples: {}", examples.len());
    for (script, expected) in examples {
        let (success, output) = run(&script, &directory);
        println!("--- {script}{output}");
        assert!(success, "it succeeds:\n{script}{output}");
        for line in expected {
            assert!(
                output.lines().any(|said| said.trim_end() == line),
                "it says '{line}':\n{script}{output}"
            );
        }
    }
    std::fs::remove_dir_all(&directory).expect("the directory is removed");
}
