//! `rvm run` and its family: images in microVMs, from the command line to what a container sees.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attached;
mod background;
mod bad_input;
mod configuration;
mod hostile;
mod images;
mod inside;
mod killed;
mod network;
pub mod place;
mod services;
mod terminal;
mod user;
mod volumes;
