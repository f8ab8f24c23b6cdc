// Timed waits of libraries, gRPC's timers above all, sleep in Abseil until a moment of the system
// clock: when that is set back by an hour, deadlines, alarms and keepalive pings come an hour late.
// Linked into a program, this puts a wait by the steady clock in the place of Abseil's.
#pragma once

namespace bora {

// Makes the program contain the replacement, and says whether the Abseil at hand uses it: false for
// versions that do not have its extension point. Call from main, before threads start.
bool UseSteadyWaits();

}  // namespace bora
