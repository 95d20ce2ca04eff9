// SPDX-License-Identifier: GPL-2.0

//! What systemd is told, as `sd_notify(3)` does.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// Tell systemd, if it wants to know. That it does not listen is no reason to fail.
pub(crate) fn tell_systemd(what: &str) {
    if let Ok(path) = env::var("NOTIFY_SOCKET") {
        let _ = tell(&path, what);
    }
}

fn tell(path: &str, what: &str) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Nobody waits for systemd, which may wait for our device.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(what.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives() {
        let name = format!("fublk-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        tell(&format!("@{name}"), "READY=1\nSTATUS=all is well").unwrap();
        let mut got = [0; 100];
        let len = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..len], b"READY=1\nSTATUS=all is well");
        assert!(tell("/nowhere/at/all", "READY=1").is_err());
    }
}
