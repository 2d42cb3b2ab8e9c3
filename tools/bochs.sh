#!/usr/bin/env bash
# Runs a static driver on a processor with AVX-512 emulated by Bochs: a Linux kernel, busybox and the driver on a CD.
#     tools/bochs.sh DRIVER KERNEL FOLDER
# Prints the output of `driver all`, `threads` and `runtime`; status 0 if all three end with 0.
set -euo pipefail
driver=$1 kernel=$2 folder=$3

mkdir -p "$folder/initrd/bin" "$folder/cd/boot/grub"
cp "$driver" "$folder/initrd/bin/driver"
cp "$(command -v busybox)" "$folder/initrd/bin/busybox"
cat > "$folder/initrd/init" <<'INIT'
#!/bin/busybox sh
echo BEGIN
for command in all threads runtime; do /bin/driver $command || echo "FAILED: driver $command"; done
echo END
/bin/busybox sleep 1 # otherwise the serial line loses its last output
/bin/busybox poweroff -f
INIT
chmod +x "$folder/initrd/init"
(cd "$folder/initrd" && find . | cpio --quiet -o -H newc | gzip) > "$folder/cd/boot/initrd"
cp "$kernel" "$folder/cd/boot/kernel"
# Bochs 2.7 reports a size of the compacted XSAVE area (xsaves, and xsavec: feature 321) that differs from the one that
# Linux computes; Linux then disables AVX.
cat > "$folder/cd/boot/grub/grub.cfg" <<'GRUB'
set timeout=0
menuentry driver {
    linux /boot/kernel console=ttyS0 quiet mitigations=off nokaslr tsc=unstable noxsaves clearcpuid=321
    initrd /boot/initrd
}
GRUB
grub-mkrescue --quiet -o "$folder/boot.iso" "$folder/cd" 2> "$folder/grub.log" || { cat "$folder/grub.log" >&2; exit 1; }
cat > "$folder/bochsrc" <<BOCHS
megs: 256
cpu: model=corei7_skylake_x, count=1, ips=100000000
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$folder/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$folder/serial.txt
display_library: rfb, options="timeout=0"
clock: sync=none
log: $folder/bochs.log
panic: action=fatal
BOCHS
printf 'continue\nquit\n' > "$folder/debugger" # Debian's Bochs starts in its debugger
bochs -q -f "$folder/bochsrc" -rc "$folder/debugger" < /dev/null > "$folder/bochs.out" 2>&1 || true
sed -n '/^BEGIN/,/^END/p' "$folder/serial.txt" | tr -d '\r' > "$folder/output.txt"
grep -v -e '^BEGIN$' -e '^END$' "$folder/output.txt" || true
grep -q '^END$' "$folder/output.txt" && ! grep -q FAILED "$folder/output.txt"
