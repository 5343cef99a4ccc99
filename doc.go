// Package weir is a toolkit of net/http middleware that guards any
// http.Handler: it records what passes, limits how much may pass, and sends
// it on, and it never holds a whole body in memory to do so.
//
// The parts are packages of their own, usable alone or together:
//
//   - clientip finds the address of the client, by explicit trust.
//   - capture records requests and responses within a byte budget.
//   - limiter decides how much may pass.
//   - proxy streams requests to upstreams.
//
// # The order of the chain
//
// A request goes through clientip, capture, limiter and proxy, in this order.
// Capture stands outside the limiter so that refusals are recorded too, and
// both stand inside clientip, which they read. The parts meet in hooks that
// whoever builds the chain connects: here the limiter's OnDecision tells the
// running record that the exchange was refused.
//
// The example of the package shows the whole chain, the second one what goes
// wrong in another order.
package weir
