//! The three requests to the kernel for which no safe wrapper exists: an ext4 file system loses its power, and the loopback
//! device of a new namespace is switched on.
//!
//! What always holds: nothing but these requests is unsafe here, and each says why it is sound.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use nix::libc;

mod raw {
    #![allow(missing_docs)]
    use nix::libc;
    // EXT4_IOC_SHUTDOWN = _IOR('X', 125, __u32), fs/ext4/ext4.h: reads one number.
    nix::ioctl_write_ptr_bad!(ext4_shutdown, 0x8004_587d, u32);
    nix::ioctl_read_bad!(get_interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// EXT4_GOING_FLAGS_NOLOGFLUSH: neither data nor journal reach the device any more, as if the power had gone.
const NO_LOG_FLUSH: u32 = 2;

/// Takes the power from the ext4 file system that is mounted at `mount_point`.
///
/// # Errors
/// If it is no ext4, or this process may not.
pub fn power_off(mount_point: &Path) -> io::Result<()> {
    let folder = File::open(mount_point)?;
    // SAFETY: the descriptor is open during the call, and the kernel reads one u32 from a reference to one.
    unsafe { raw::ext4_shutdown(folder.as_raw_fd(), &NO_LOG_FLUSH) }?;
    Ok(())
}

/// Switches `lo` on in the network namespace of the calling thread.
///
/// # Errors
/// If this process may not.
pub fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    // SAFETY: the socket is open, and the kernel fills in the ifreq that it is given.
    unsafe { raw::get_interface_flags(socket.as_raw_fd(), &mut request) }?;
    // SAFETY: the kernel has just written the flags, and every bit pattern is a valid short.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: the socket is open, and the kernel reads the ifreq.
    unsafe { raw::set_interface_flags(socket.as_raw_fd(), &request) }?;
    Ok(())
}
