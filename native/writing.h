// Streams that write several tokens in one go, with drafts of what they may write.
#pragma once
#include "model.h"

namespace everloop {

// Tokens that may come next, guessed by somebody else.
struct Draft {
  const int32_t* tokens;
  int32_t count;
};

// Samples the tokens after drafts: row k of a sampler's rows of logits, drafts[i].count + 1 of
// them after those of the sampler before, follows the first k drafted tokens. Goes on as long as the
// token drawn is the drafted one: made[i] tokens, the first of the sampler's rows of `out`, and all
// of them are accepted. The last may be -1 (not finite).
void verify(Model& model, Sampler* const* samplers, const Draft* drafts, int count,
            const float* logits, int32_t* out, int32_t* made);

// A draft may be wrong in a token: what comes after it is tried a little at a time, as long as fewer
// tokens agreed than these, and given up if it is wrong as well.
constexpr int kTrusted = 6, kEach = 4;

// What a stream writes; `made` and `broken` are results.
struct Stream {
  Piece piece;  // where it goes on: its start, and its block table for all that it may write
  int32_t last;  // its last token
  Sampler* sampler;
  const int32_t *ends, *ends_end;  // tokens that end it
  Draft draft;    // of all that it may write
  int32_t width;  // of this so much is verified in each step; less after it has been wrong
  int32_t* out;   // as many as it may write: steps * (width + 1)
  uint8_t* left;  // of each, if any may: 1 if its state left early
  int32_t made = 0;
  int32_t agreed = kTrusted;  // tokens since the draft was wrong
  bool broken = false;  // a draft made its numbers infinite or NaN; they follow the `made` tokens
};

// Writes for all streams in step, `steps` at most, until one of them ends, or departs from its
// draft for good or comes to its end. A token of -1 ends a stream whose numbers are not finite. `logits` has
// room for the rows of a step. Returns the steps done; `rows` counts what they computed.
int write(Model& model, std::vector<Stream>& streams, const int32_t* tables, int steps,
          float* logits, int32_t* rows);

}  // namespace everloop
