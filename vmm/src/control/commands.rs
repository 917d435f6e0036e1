//! What is asked of a machine by the control socket, carried out.

use std::os::fd::OwnedFd;

use rvm_config::VmConfig;
use rvm_config::control::{Command, Outcome};

use crate::console::tail::Tail;
use crate::logging;
use crate::stats;
use crate::vm::Vm;

/// Carries out `command`, with the `descriptors` it is about, on `vm`, which was made of `machine` and whose console, if
/// captured, ends with `tail`.
/// [`Command::Stop`] is the caller's to carry out: here it is only agreed to.
pub fn carry_out(
    command: Command,
    descriptors: Vec<OwnedFd>,
    machine: &VmConfig,
    vm: &mut Vm,
    tail: Option<&Tail>,
) -> Outcome {
    match command {
        Command::Pause => vm.pause(),
        Command::Resume => vm.resume(),
        Command::Stop => {}
        Command::Stats => return Outcome::Stats(stats::collect(vm)),
        Command::Balloon { size } => match machine.validate_balloon(size) {
            Err(error) => return Outcome::Refused(error.to_string()),
            Ok(()) if vm.set_balloon(size) => {}
            Ok(()) => return Outcome::Refused("cannot change the balloon: this VM has none".into()),
        },
        Command::AttachDisk { id, layout } => {
            if let Err(error) = vm.attach_disk(&id, layout, descriptors) {
                return Outcome::Refused(logging::chain(&error));
            }
        }
        Command::DetachDisk { id } => {
            if let Err(error) = vm.detach_disk(&id) {
                return Outcome::Refused(logging::chain(&error));
            }
        }
        Command::ConsoleTail => {
            return match tail {
                Some(tail) => Outcome::Console(tail.text()),
                None => Outcome::Refused("cannot give the console's last words: it is not captured".into()),
            };
        }
    }
    Outcome::Done
}
