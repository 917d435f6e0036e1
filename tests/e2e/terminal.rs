//! A terminal, with a program under test on one end and the test as the person at the other.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use crate::process::{PATIENCE, Stream, fill, pause};

/// A program on a terminal, and the person before it.
pub struct Terminal {
    program: Child,
    pub screen: Stream,
    /// The program's end: keeps the terminal open when that has ended.
    other_end: OwnedFd,
    before: Termios,
}

impl Terminal {
    /// Starts `command` on a terminal of 24 rows and 80 columns; `error` is its standard error, if that is not the terminal.
    pub fn start(mut command: Command, error: Option<Stdio>) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pty.master).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
        let end = || pty.slave.try_clone().unwrap();
        let error = error.unwrap_or_else(|| end().into());
        let program = command.stdin(end()).stdout(end()).stderr(error).spawn().unwrap();
        Self { program, screen: Stream::new(pty.master), other_end: pty.slave, before }
    }

    pub fn types(&mut self, keys: &[u8]) {
        self.screen.file().write_all(keys).unwrap();
    }

    /// Writes to the screen, as a program on it would, until it takes no more.
    pub fn fill(&self) {
        fill(&format!("/proc/self/fd/{}", self.other_end.as_raw_fd()));
    }

    /// Waits until the program has something for its standard error that this does not take: it watches descriptor 2 by epoll(7).
    #[track_caller]
    pub fn wait_until_errors_wait(&self) {
        let watches = |info: &str| {
            let mut lines = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
            lines.any(|line| line.split_whitespace().next() == Some("2"))
        };
        let begin = Instant::now();
        loop {
            let infos = fs::read_dir(format!("/proc/{}/fdinfo", self.program.id())).unwrap();
            // One that is gone again was none.
            let mut infos = infos.filter_map(|info| fs::read_to_string(info.unwrap().path()).ok());
            if infos.any(|info| watches(&info)) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "its standard error takes everything");
            pause();
        }
    }

    pub fn is_raw(&self) -> bool {
        let now = tcgetattr(self.screen.file()).unwrap();
        !now.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.program.id()).unwrap()), signal).unwrap();
    }

    /// Makes the terminal so large, and tells the program as a window would.
    pub fn resize(&self, rows: u16, columns: u16) {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows, "cols", &columns]).stdin(self.other_end.try_clone().unwrap());
        assert!(stty.status().unwrap().success());
        self.signal(Signal::SIGWINCH);
    }

    /// Has the shell on it say that its terminal has this name, and then that it is as large as it is made; ends it with 3.
    #[track_caller]
    pub fn shell_is_resized(&mut self, name: &str) {
        self.screen.wait_for("# ");
        self.types(b"tty; until stty size | grep '30 100'; do echo again; sleep 0.2; done; exit 3\r");
        self.screen.wait_for(&format!("\n{name}"));
        while self.screen.wait_for("\n").trim() != "30 100" {
            // Clients miss what comes before they listen.
            self.resize(30, 100);
        }
        self.ends(3);
    }

    /// Waits for its end with this status, and looks at the terminal.
    #[track_caller]
    pub fn ends(&mut self, status: i32) {
        assert_eq!(self.program.wait().unwrap().code(), Some(status));
        assert_eq!(tcgetattr(self.screen.file()).unwrap(), self.before, "the terminal after it");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, or the test has failed.
        self.program.kill().ok();
        self.program.wait().ok();
    }
}
