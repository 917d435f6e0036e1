//! `io.containerd.rvm.v2` as Docker drives it: the real daemon and client, and rvm's shim behind them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod compose;
mod flags;
mod images;
mod life;
mod network;
pub mod place;
mod run;
