//! A policy to compare with: every allocation batch of some cgroups is delayed by the same time.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use agentcg_core::Cgroup;
use anyhow::{Context, Result};
use libbpf_rs::OpenObject;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

#[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks, unused)]
#[allow(non_camel_case_types, non_upper_case_globals, non_snake_case, rust_2018_idioms)]
#[allow(unsafe_op_in_unsafe_fn)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/fixed_skel.rs"));
}

/// The links; the programs stay as long as one is open.
pub struct FixedDelay(#[expect(dead_code, reason = "held, not used")] Vec<OwnedFd>);

impl FixedDelay {
    /// Attaches it; needs `memcg_bpf_ops` of revision 3 to 6.
    pub fn attach(cgroups: &[Cgroup], ms: u32) -> Result<Self> {
        let mut object = MaybeUninit::<OpenObject>::uninit();
        let mut open = skel::FixedSkelBuilder::default().open(&mut object)?;
        open.maps.rodata_data.as_deref_mut().context("no constants")?.delay_ms = ms;
        let mut loaded = open.load()?;
        // Fills in the table, and then fails, for there is no cgroup.
        let _ = loaded.maps.fixed.attach_struct_ops();
        let map = loaded.maps.fixed.as_fd().as_raw_fd() as u32;
        Ok(Self(cgroups.iter().map(|c| link(map, c)).collect::<Result<_>>()?))
    }
}

/// `BPF_LINK_CREATE`: map, no target, `BPF_STRUCT_OPS`, no flags, the cgroup.
fn link(map: u32, cgroup: &Cgroup) -> Result<OwnedFd> {
    let attr: [u32; 8] = [map, 0, 44, 0, cgroup.as_fd().as_raw_fd() as u32, 0, 0, 0];
    // SAFETY: the kernel reads the array, of the size that it is told.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 28, &attr, size_of_val(&attr)) };
    anyhow::ensure!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
