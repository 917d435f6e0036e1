//! The inside of the lab: does the job on the payload disk and reports over the virtio-serial port.
//!
//! Started by the lab's PID 1 (`tests/lab/host/init`), which powers the lab off when this ends, however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use crate::protocol::{Bytes, Job, Message, PAYLOAD, PORT, Plan, Stream, Work};
use crate::runner::{self, Ended};

/// How often the lab shows that it lives.
const BEAT: Duration = Duration::from_secs(5);

/// How long a command's output may stay open after the command's end (a daemon that kept it).
const DRAIN: Duration = Duration::from_secs(5);

/// The most of one file that is passed out.
const FILE_LIMIT: u64 = 64 << 20;

/// Does the job; the exit status is the job's.
pub fn main() -> io::Result<i32> {
    let outside = Outside::open()?;
    let job = fs::read(Path::new(PAYLOAD).join("job.json"))?;
    let job: Job = serde_json::from_slice(&job)?;
    outside.tell(&Message::Up {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        millis: uptime()?,
    })?;

    // Where there is one vCPU, nobody can see another's text patched.
    let _held = if job.beat { hold_kvm().ok() } else { None };
    let out = Path::new("/tmp/out");
    fs::create_dir_all(out)?;
    let env = surroundings(out)?;
    let status = thread::scope(|scope| {
        let (over, ended) = mpsc::channel::<()>();
        if job.beat {
            // A beat that cannot be told has nobody to hear it; the job's own messages will say so.
            let outside = &outside;
            scope.spawn(move || {
                while ended.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                    if outside.tell(&Message::Beat).is_err() {
                        return;
                    }
                }
            });
        }
        let status = match &job.work {
            Work::Tests(plan) => run_tests(plan, &env, &outside),
            Work::Command { argv } => run_command(argv, &env, &outside),
            Work::Shell { rows, columns } => run_shell(*rows, *columns, &env),
        };
        drop(over);
        status
    })?;
    pass_files_out(out, &outside)?;
    outside.tell(&Message::Done { status })?;
    Ok(status)
}

/// VMs that never run, one with the interrupt controllers in the kernel and one without.
///
/// KVM patches its own text when the first VM or processor of a kind comes and when the last goes. TCG is not safe
/// for that: another vCPU of the lab may meet the breakpoint of the patching after it is gone. As long as these are
/// there, no VM of a test is the first or the last. Without KVM there is nothing to hold.
fn hold_kvm() -> Result<[(VmFd, VcpuFd); 2], kvm_ioctls::Error> {
    let kvm = Kvm::new()?;
    let with = kvm.create_vm()?;
    with.create_irq_chip()?;
    let without = kvm.create_vm()?;
    let (its_vcpu, vcpu) = (with.create_vcpu(0)?, without.create_vcpu(0)?);
    Ok([(with, its_vcpu), (without, vcpu)])
}

/// The way to the outside, and back.
struct Outside {
    port: Mutex<File>,
    /// One question at a time.
    answers: Mutex<BufReader<File>>,
}

impl Outside {
    fn open() -> io::Result<Self> {
        for port in fs::read_dir("/sys/class/virtio-ports")? {
            let port = port?;
            if fs::read_to_string(port.path().join("name"))?.trim() == PORT {
                let device = Path::new("/dev").join(port.file_name());
                let port = OpenOptions::new().read(true).write(true).open(device)?;
                let answers = Mutex::new(BufReader::new(port.try_clone()?));
                return Ok(Self { port: Mutex::new(port), answers });
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio-serial port named {PORT}")))
    }

    fn tell(&self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.port.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    /// The number of the test to run next, if there is one.
    fn next(&self) -> io::Result<Option<usize>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(&Message::Free)?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Milliseconds since the lab's kernel started.
fn uptime() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let (seconds, rest) = text.split_once('.').unwrap_or((&text, ""));
    let hundredths = rest.get(..2).unwrap_or("0");
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    Ok(number(seconds)? * 1000 + number(hundredths)? * 10)
}

/// The environment of everything that runs here: where this lab has things.
fn surroundings(out: &Path) -> io::Result<Vec<(String, String)>> {
    let mut env = vec![
        ("RVM_LAB".into(), "1".into()),
        ("RVM_ARTIFACTS".into(), format!("{PAYLOAD}/bin")),
        ("RVM_OUT".into(), out.display().to_string()),
    ];
    for disk in fs::read_dir("/sys/block")? {
        let disk = disk?;
        let Ok(serial) = fs::read_to_string(disk.path().join("serial")) else {
            continue; // not a virtio disk
        };
        if let Some(name) = serial.trim().strip_prefix("disk-") {
            let device = Path::new("/dev").join(disk.file_name()).display().to_string();
            env.push((rvm_tests::artifact::disk_variable(name), device));
        }
    }
    Ok(env)
}

fn run_tests(plan: &Plan, env: &[(String, String)], outside: &Outside) -> io::Result<i32> {
    let broken = Mutex::new(None);
    let note = |error| {
        broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let next = || {
        outside.next().unwrap_or_else(|error| {
            note(error);
            None
        })
    };
    runner::run(plan, env, &next, &|Ended { test, outcome, time, output }| {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = outside.tell(&Message::Ended { test, outcome, millis, output }) {
            note(error);
        }
    });
    match broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(0),
    }
}

fn run_command(argv: &[String], env: &[(String, String)], outside: &Outside) -> io::Result<i32> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command in the job"));
    };
    let spawned = Command::new(program)
        .args(arguments)
        .current_dir(PAYLOAD)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let text = format!("lab: cannot run {program}: {error}\n");
            outside.tell(&Message::Output { stream: Stream::Stderr, bytes: Bytes(text.into_bytes()) })?;
            return Ok(127);
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (sender, pieces) = mpsc::channel();
    // None of these threads is joined: a daemon may keep the pipes open, and nobody waits for it.
    for (pipe, stream) in
        [(stdout.map(OwnedFd::from), Stream::Stdout), (stderr.map(OwnedFd::from), Stream::Stderr)]
    {
        let sender = sender.clone();
        thread::spawn(move || forward(pipe, stream, &sender));
    }
    thread::spawn(move || sender.send(Piece::Ended(runner::wait(child, Duration::MAX))));

    let status = loop {
        match pieces.recv().map_err(io::Error::other)? {
            Piece::Output(message) => outside.tell(&message)?,
            Piece::Ended(status) => break status?,
        }
    };
    while let Ok(Piece::Output(message)) = pieces.recv_timeout(DRAIN) {
        outside.tell(&message)?;
    }
    status.map(code).ok_or_else(|| io::Error::other("the command was never waited for"))
}

/// What comes from a running command.
enum Piece {
    Output(Message),
    Ended(io::Result<Option<ExitStatus>>),
}

fn forward(pipe: Option<OwnedFd>, stream: Stream, to: &mpsc::Sender<Piece>) {
    let Some(mut pipe) = pipe.map(File::from) else {
        return;
    };
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer) {
        let bytes = Bytes(buffer.get(..count).unwrap_or_default().to_vec());
        if to.send(Piece::Output(Message::Output { stream, bytes })).is_err() {
            return;
        }
    }
}

/// The exit status as a shell would give it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn run_shell(rows: u16, columns: u16, env: &[(String, String)]) -> io::Result<i32> {
    let console = || OpenOptions::new().read(true).write(true).open("/dev/ttyS0");
    let resize = format!("stty rows {rows} cols {columns}; exec bash -i");
    let status = Command::new("setsid")
        .args(["--ctty", "--wait", "bash", "-c", &resize])
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(console()?)
        .stdout(console()?)
        .stderr(console()?)
        .status()?;
    Ok(code(status))
}

fn pass_files_out(directory: &Path, outside: &Outside) -> io::Result<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.is_file());
    files.sort();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        File::open(&path)?.take(FILE_LIMIT).read_to_end(&mut bytes)?;
        outside.tell(&Message::File { name, bytes: Bytes(bytes) })?;
    }
    Ok(())
}
