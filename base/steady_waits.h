// Makes Abseil's timed waits follow the steady clock. Libraries, gRPC's timers above all, wait in
// Abseil until a time of the system clock: if that clock is set back by an hour, deadlines, alarms
// and keepalive pings come an hour late. Linking this file into a program replaces the function in
// which Abseil's threads sleep.
#pragma once

namespace bora {

// A reference to this function makes the linker take the replacement. Returns whether Abseil really
// calls it, by waiting for 1 ms; false for Abseil versions other than LTS 20220623, whose internals
// are not known here. Call once, from main, before threads start.
bool UseSteadyWaits();

}  // namespace bora
