#!/bin/busybox sh
# Init of the rig (rig.py): loads modules, runs /script, hands back what it left, switches off.
# On ttyS1 it says "begun", a beat every two seconds, "ended"; there it is told to end the script.
export TRAPEZE_RIG=1 PATH=/bin:/sbin:/usr/bin:/usr/sbin RESULTS=/results HOME=/tmp
/bin/busybox mkdir -p /proc /sys /dev /tmp /results /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug; mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
exec 3<>/dev/ttyS1
for port in 0 1; do stty -F /dev/ttyS$port raw -echo; done
echo 1 > /proc/irq/4/smp_affinity  # ttyS0 wakes the first CPU, ttyS1 the second
echo 2 > /proc/irq/3/smp_affinity 2>/dev/null
while read -r module options; do insmod "/modules/$module" $options || echo "insmod $module failed"
done < /modules/order

uptime() { read -r seconds rest < /proc/uptime; echo "${seconds%.*}"; }

# What everybody does who should have ended by now.
look() {
  echo "uptime $(uptime)"
  ps -o pid,ppid,stat,args | grep -v '\]$'
  for pid in $(pidof trapeze.real trapeze kvm_live python3); do
    for task in "/proc/$pid/task/"*; do
      read -r name < "$task/comm"
      read -r call < "$task/syscall"
      read -r where < "$task/wchan"
      echo "${task#/proc/} $name: call $call, $where, $(cut -d' ' -f3,14,15 "$task/stat")"
      sed 's/^/    /' "$task/stack"
    done
  done
}

# Limits of the script's own parts: a machine that took long until here takes long for them too.
slowness=$(($(uptime) / 10 + 1))
[ $slowness -le 3 ] || slowness=3
export GUEST_SECONDS=$((120 * slowness))

: > /results/stdout
: > /results/stderr
echo "rig: script begins"
echo "begun $slowness" >&3
cd /
sh /script > /results/stdout 2> /results/stderr < /dev/null 3<&- &
script=$!
(while :; do echo "beat $(uptime)"; sleep 2; done >&3) &
tail -f -n +1 /results/stdout /results/stderr > /dev/vport0p2 &
(while read -r word <&3; do
  if [ "$word" = end ]; then
    look > /results/hang 2>&1
    kill -KILL $script
  fi
done) &
wait $script
echo $? > /results/status
echo "rig: script ended"
echo "ended" >&3
dmesg > /results/dmesg
tar c -C /results . > /dev/vport0p1
echo "rig: done"
poweroff -f
