//! Which address children are told: `tbon.interface-hint`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// The address that `hint` means: `default-route`, `hostname`, the name of an interface, or a
/// network such as `10.0.0.0/8`. The default route falls back to the host name.
///
/// # Errors
/// When nothing here fits the hint.
pub fn address(hint: &str, hostname: &str) -> io::Result<IpAddr> {
    match hint {
        "hostname" => by_name(hostname),
        "" | "default-route" => match default_interface().map(|name| on_interface(&name)) {
            Some(Ok(address)) => Ok(address),
            _ => by_name(hostname),
        },
        hint => match hint.split_once('/') {
            Some((network, bits)) => in_network(hint, network, bits),
            None => on_interface(hint),
        },
    }
}

fn not_found(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn by_name(hostname: &str) -> io::Result<IpAddr> {
    let found: Vec<IpAddr> = (hostname, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    let best = found.iter().find(|address| address.is_ipv4()).or(found.first());
    best.copied().ok_or_else(|| not_found(format!("{hostname} has no address")))
}

/// The interface of the default route (IPv4).
fn default_interface() -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (name, destination) = (words.next()?, words.next()?);
        (destination == "00000000").then(|| name.to_string())
    })
}

fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let all = nix::ifaddrs::getifaddrs()?;
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), 0)));
        let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), 0)));
        Some((interface.interface_name, v4.or_else(v6)?.ip()))
    };
    let mut found: Vec<_> = all.filter_map(ip).collect();
    found.sort_by_key(|(_, address)| address.is_ipv6());
    Ok(found)
}

fn on_interface(name: &str) -> io::Result<IpAddr> {
    let found = addresses()?.into_iter().find(|(interface, _)| interface == name);
    found.map(|(_, address)| address).ok_or_else(|| not_found(format!("{name} has no address")))
}

fn in_network(hint: &str, network: &str, bits: &str) -> io::Result<IpAddr> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{hint} is no network"));
    let network: Ipv4Addr = network.parse().map_err(|_| bad())?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32).ok_or_else(bad)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let fits = |address: &IpAddr| match address {
        IpAddr::V4(v4) => (v4.to_bits() ^ network.to_bits()) & mask == 0,
        IpAddr::V6(_) => false,
    };
    let found = addresses()?.into_iter().map(|(_, address)| address).find(fits);
    found.ok_or_else(|| not_found(format!("no address in {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_addresses() {
        assert_eq!(address("127.0.0.0/8", "x").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(address("lo", "x").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(address("hostname", "127.0.0.1").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(address("default-route", "127.0.0.1").is_ok());
        for bad in ["none0", "1.2.3/8", "10.0.0.0/33", "203.0.113.0/32"] {
            assert!(address(bad, "x").is_err(), "{bad}");
        }
    }
}
