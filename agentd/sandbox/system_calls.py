"""Linux's system calls by number, and a way to make those that Python has no function for."""

import ctypes
import os
import sys
from typing import Any

# Name, number on x86_64, number on aarch64; "-" where a machine has no such call.
# From asm/unistd_64.h and asm-generic/unistd.h of Linux 6.12.
TABLE = """
accept 43 202  accept4 288 242  acct 163 89  add_key 248 217  adjtimex 159 171  bind 49 200
bpf 321 280  capget 125 90  capset 126 91  chmod 90 -  chown 92 -  chroot 161 51
clock_adjtime 305 266  clock_settime 227 112  clone 56 220  clone3 435 435  connect 42 203
delete_module 176 106  execveat 322 281  fanotify_init 300 262  fchmod 91 52  fchmodat 268 53
fchmodat2 452 452  fchown 93 55  fchownat 260 54  fgetxattr 193 10  finit_module 313 273
flistxattr 196 13  fremovexattr 199 16  fsconfig 431 431  fsetxattr 190 7  fsmount 432 432
fsopen 430 430  fspick 433 433  futimesat 261 -  getxattr 191 8  init_module 175 105
inotify_init 253 -  inotify_init1 294 26  io_uring_enter 426 426  io_uring_register 427 427
io_uring_setup 425 425  ioctl 16 29  ioperm 173 -  iopl 172 -  ioprio_set 251 30  kcmp 312 272
kexec_file_load 320 294  kexec_load 246 104  keyctl 250 219  landlock_add_rule 445 445
landlock_create_ruleset 444 444  landlock_restrict_self 446 446  lchown 94 -  lgetxattr 192 9
listen 50 201  listmount 458 458  listxattr 194 11  llistxattr 195 12  lookup_dcookie 212 18
lremovexattr 198 15  lsetxattr 189 6  memfd_create 319 279  memfd_secret 447 447
migrate_pages 256 238  modify_ldt 154 -  mount 165 40  mount_setattr 442 442  move_mount 429 429
move_pages 279 239  mq_open 240 180  mq_unlink 241 181  mseal 462 462  msgctl 71 187  msgget 68 186
msgrcv 70 188  msgsnd 69 189  name_to_handle_at 303 264  open_by_handle_at 304 265
open_tree 428 428  openat2 437 437  perf_event_open 298 241  pidfd_getfd 438 438  pidfd_open 434 434
pidfd_send_signal 424 424  pivot_root 155 41  prlimit64 302 261  process_madvise 440 440
process_mrelease 448 448  process_vm_readv 310 270  process_vm_writev 311 271  ptrace 101 117
quotactl 179 60  quotactl_fd 443 443  reboot 169 142  removexattr 197 14  renameat2 316 276
request_key 249 218  rt_sigqueueinfo 129 138  sched_setaffinity 203 122  sched_setattr 314 274
sched_setparam 142 118  sched_setscheduler 144 119  seccomp 317 277  semctl 66 191  semget 64 190
semop 65 193  semtimedop 220 192  sendmmsg 307 269  sendmsg 46 211  sendto 44 206
setdomainname 171 162  sethostname 170 161  setns 308 268  setpgid 109 154  setpriority 141 140
setsid 112 157  settimeofday 164 170  setxattr 188 5  shmat 30 196  shmctl 31 195  shmget 29 194
socket 41 198  socketpair 53 199  statmount 457 457  swapoff 168 225  swapon 167 224
sysinfo 99 179  syslog 103 116  umount2 166 39  unshare 272 97  userfaultfd 323 282  utime 132 -
utimensat 280 88  utimes 235 -  vhangup 153 58
"""
MACHINES = ("x86_64", "aarch64")  # columns of the table


def machine() -> str:
    """Return which of `MACHINES` this process's system calls go by; "" for any other."""
    name = os.uname().machine
    # A process of 32 bits on such a machine has other numbers, as has one of another byte order.
    known = sys.platform == "linux" and sys.maxsize > 2**32 and sys.byteorder == "little"
    return name if known and name in MACHINES else ""


def number(name: str, on: str | None = None) -> int | None:
    """Return a call's number, None where the machine has none (`on`: not this one)."""
    found = _NUMBERS[on or machine()][name]
    return None if found == "-" else int(found)


_words = TABLE.split()
_NUMBERS = {
    machine: dict(zip(_words[::3], _words[column::3], strict=True))
    for column, machine in enumerate(MACHINES, 1)
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(name: str, *args: Any) -> int:
    """Make a system call. Pointers are `bytes`, ctypes' arrays or None; numbers are 64 bits.

    Raises:
        OSError: the kernel refused it.
    """
    found = number(name)
    if found is None:
        raise OSError(38, "this machine has no such system call", name)  # ENOSYS
    return _checked(_libc.syscall(ctypes.c_long(found), *map(_word, args)))


def prctl(option: int, *args: int) -> int:
    """Call prctl(2).

    Raises:
        OSError: the kernel refused it.
    """
    words = [*args, 0, 0, 0, 0][:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(word) for word in words)))


def _word(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
