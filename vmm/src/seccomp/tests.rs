use super::*;

const KINDS: [ThreadKind; 8] = [
    ThreadKind::Main,
    ThreadKind::Vcpu,
    ThreadKind::Net,
    ThreadKind::Block,
    ThreadKind::Rng,
    ThreadKind::Balloon,
    ThreadKind::Vsock,
    ThreadKind::Fs,
];

#[test]
fn no_thread_may_start_programs_or_walk_to_a_file_from_its_working_directory() {
    let never = [libc::SYS_open, libc::SYS_execve, libc::SYS_clone, libc::SYS_ptrace, libc::SYS_openat2];
    for kind in KINDS {
        for call in kind.calls() {
            let (Any(number) | With(number, ..) | Without(number, ..)) = call;
            assert!(!never.contains(&number), "{kind:?}");
            // One thread opens files: those below a directory that it has open.
            let below = matches!(call, Without(_, 0, NO_DESCRIPTOR)) && kind == ThreadKind::Fs;
            assert!(number != libc::SYS_openat || below, "{kind:?}");
        }
    }
}

#[test]
fn a_call_outside_the_filter_ends_the_process_with_its_number() {
    // In a process of its own: the filter kills it.
    if std::env::var_os("RVM_TEST_VIOLATE").is_some() {
        Filters::new(true).unwrap().confine(ThreadKind::Rng)();
        std::fs::File::open("/dev/null").ok();
        panic!("the call went through");
    }
    let this = std::env::current_exe().unwrap();
    let name = "seccomp::tests::a_call_outside_the_filter_ends_the_process_with_its_number";
    let output = std::process::Command::new(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("RVM_TEST_VIOLATE", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(VIOLATION));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("number 0257"), "{said}");
}

#[test]
fn a_confined_thread_may_give_back_any_amount_of_memory() {
    if std::env::var_os("RVM_TEST_FREE").is_some() {
        let filters = Filters::new(true).unwrap();
        let confine = filters.confine(ThreadKind::Rng);
        let thread = std::thread::spawn(|| {
            confine();
            drop((0..100_000).map(|_| Box::new([0_u8; 256])).collect::<Vec<_>>());
        });
        return thread.join().unwrap();
    }
    let name = "seccomp::tests::a_confined_thread_may_give_back_any_amount_of_memory";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("RVM_TEST_FREE", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_forbidden_call_leaves_the_terminal_as_it_was() {
    use crate::console::terminal::RawTerminal;
    use nix::sys::termios::{LocalFlags, tcgetattr};
    if std::env::var_os("RVM_TEST_VIOLATE").is_some() {
        let _raw = RawTerminal::enter().unwrap();
        Filters::new(true).unwrap().confine(ThreadKind::Vcpu)();
        std::fs::File::open("/dev/null").ok();
        panic!("the call went through");
    }
    let pty = nix::pty::openpty(None, None).unwrap();
    let before = tcgetattr(&pty.master).unwrap();
    assert!(before.local_flags.contains(LocalFlags::ICANON));
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "seccomp::tests::a_forbidden_call_leaves_the_terminal_as_it_was"])
        .args(["--nocapture", "--test-threads=1"])
        .env("RVM_TEST_VIOLATE", "1")
        .stdin(pty.slave.try_clone().unwrap())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(VIOLATION));
    assert_eq!(tcgetattr(&pty.master).unwrap(), before);
}
