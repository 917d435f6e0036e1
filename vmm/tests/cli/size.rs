//! Amounts of memory and numbers of vCPUs that cannot be.

use crate::place::Place;

#[test]
fn memory_that_no_vm_has() {
    let place = Place::new();
    for (given, read) in
        [("0", "0 MiB"), ("1M", "1 MiB"), ("63", "63 MiB"), ("513G", "513 GiB"), ("4095T", "")]
    {
        let message = match read {
            "" => format!(
                "cannot use '{given}' for --memory: '{given}' is not an amount of memory that a VM can have: write for \
                 example 256M or 2G"
            ),
            _ => format!("memory cannot be {read}: a VM has 64 MiB to 512 GiB"),
        };
        place.refuses(&["--memory", given], 40, &message);
    }
}

#[test]
fn memory_that_is_no_amount() {
    let place = Place::new();
    for given in ["", "abc", "-1", "1.5G", "4194304G", "99999999999999999999M"] {
        let message = format!(
            "cannot use '{given}' for --memory: '{given}' is not an amount of memory that a VM can have: write for \
             example 256M or 2G"
        );
        place.refuses(&["--memory", given], 40, &message);
    }
}

#[test]
fn a_balloon_that_leaves_the_guest_too_little() {
    let place = Place::new();
    let message =
        "balloon cannot take 65 MiB of 128 MiB: 64 MiB must be left; take less, or give the VM more memory";
    place.refuses(&["--balloon", "65M"], 74, message);
    let message = "cannot use 'x' for --balloon: 'size' cannot be 'x': 'x' is not an amount of memory that a VM can \
                   have: write for example 256M or 2G";
    place.refuses(&["--balloon", "x"], 2, message);
}

#[test]
fn more_memory_than_the_host_has() {
    let host = nix::sys::sysinfo::sysinfo().unwrap().ram_total() >> 20;
    if host >= 512 << 10 {
        return crate::place::cannot_run("this host has as much memory as a VM can have");
    }
    let host = rvm_config::MemorySize::from_mib(u32::try_from(host).unwrap());
    let message =
        format!("the host has {host} of memory, less than the 512 GiB asked for the guest; ask for less");
    Place::new().refuses(&["--memory", "512G"], 41, &message);
}

#[test]
fn more_memory_than_this_process_may_have() {
    let place = Place::new();
    let mut shell = place.command("sh");
    let script = r#"ulimit -v 2000000; exec "$0" boot --memory 2G"#;
    shell.args(["-c", script, env!("CARGO_BIN_EXE_rvm")]);
    let message = "cannot map 2 GiB of memory for the guest (a memory limit of this process?): Cannot allocate memory \
                   (os error 12)";
    place.command_refuses(shell, 41, message);
}

#[test]
fn a_number_of_vcpus_that_no_vm_has() {
    let place = Place::new();
    for given in ["0", "33", "255"] {
        place.refuses(&["--cpus", given], 42, &format!("cpus cannot be {given}: a VM has 1 to 32"));
    }
    for given in ["256", "-1", "abc", "", "1.5", "99999999999999999999"] {
        place.refuses(&["--cpus", given], 42, &format!("cannot use '{given}' for --cpus: a VM has 1 to 32"));
    }
}
