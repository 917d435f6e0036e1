//! Work with files that benchmarks have containers do, in their root or in a volume: unpacking an archive of small files,
//! going through them, reading them, and reading at random places of a large one.
//!
//! What they need is in a directory of the host, [`SHARED`], which every container has as the volume [`VOLUME`].

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::commands::time;
use crate::oci::Layer;

/// Where the volume is on the host: archives of small files, a large file, and the program that reads it.
pub const SHARED: &str = "/var/tmp/bench-shared";
/// Where containers have it.
pub const VOLUME: &str = "/shared";

/// Makes a tree of small files out of an archive.
pub const UNTAR: Work =
    Work { name: "untar $FILES files", script: "mkdir $AT/tree && tar -xf /shared/$FILES.tar -C $AT/tree" };
/// Asks for the size of each of them.
pub const STAT: Work = Work { name: "stat $FILES files", script: "find $AT/tree -size +100000k" };
/// Reads each of them.
pub const READ: Work = Work { name: "read $FILES files", script: "tar -cf - -C $AT/tree . | wc -c" };
/// Reads at random places of the large file.
pub const RANDOM_READS: Work =
    Work { name: "2,000 random reads", script: "echo file $AT/large 4096 2000 | /shared/guest-bench" };

/// Puts the large file where random reads expect it.
pub const COPY_LARGE: &str = "dd if=/shared/large of=/large bs=1M status=none";

const LARGE: usize = 32 << 20;
/// Where `lab bench` puts the program.
const READER: &str = "/pay/guest-bench";

/// One kind of work: a script of a shell that is told by `$AT` where, and by `$FILES` with how many files.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    name: &'static str,
    script: &'static str,
}

/// Where it is done.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// What tables call it.
    pub name: &'static str,
    /// The directory, without a slash at its end.
    pub at: &'static str,
    /// How many files it is done with.
    pub files: u32,
}

/// Makes [`SHARED`], with archives of so many files.
pub fn prepare(archives: &[u32]) -> io::Result<()> {
    let shared = Path::new(SHARED);
    fs::create_dir_all(shared)?;
    for files in archives {
        fs::write(shared.join(format!("{files}.tar")), archive(*files))?;
    }
    fs::write(shared.join("large"), vec![0x5a; LARGE])?;
    fs::copy(READER, shared.join("guest-bench")).map(drop)
}

/// An archive of small files, a hundred a directory.
fn archive(files: u32) -> Vec<u8> {
    let content = [b'x'; 2000];
    let layer = (0..files).fold(Layer::default(), |layer, number| {
        let content = content.get(..(number % 2000) as usize).unwrap_or_default();
        layer.file(&format!("d{}/f{number}", number / 100), 0o644, content)
    });
    layer.archive()
}

impl Place {
    /// Has it done once by `exec`, a way to run a command in the container: what tables call it, and lab milliseconds beyond
    /// the `alone` of a command that does nothing; none if it had to be ended.
    ///
    /// # Panics
    /// When it fails.
    pub fn time(
        &self,
        work: Work,
        exec: &dyn Fn(&[&str]) -> Command,
        alone: Option<f64>,
    ) -> (String, Option<f64>) {
        let Self { name, at, files } = self;
        let script = format!("AT={at}; FILES={files}; {}", work.script);
        let all = time(exec(&["sh", "-c", &script]));
        let what = format!("{}, {name}, lab ms", work.name.replace("$FILES", &files.to_string()));
        (what, all.zip(alone).map(|(all, alone)| all - alone))
    }
}
