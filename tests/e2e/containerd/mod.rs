//! `io.containerd.rvm.v2` as containerd drives it: the real daemon, `ctr`, and rvm's shim between them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cri;
mod cri_api;
mod cri_streams;
mod direct;
mod ends;
mod files;
mod images;
mod install;
mod logs;
mod many;
mod network;
mod own;
mod place;
mod restart;
mod run;
mod sandbox;
mod spec;
mod tasks;
mod websocket;
