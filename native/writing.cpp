#include "writing.h"

#include <algorithm>
#include <atomic>

namespace everloop {

namespace {

bool ends(const Stream& stream, int32_t token) {
  return std::find(stream.ends, stream.ends_end, token) != stream.ends_end;
}

// How much of its draft is verified in the next step.
int width(const Stream& stream) {
  const int most = std::min(stream.width, stream.draft.count);
  return stream.agreed < kTrusted ? std::min(most, kEach * stream.agreed) : most;
}

// Takes the `count` tokens of a step, and who of them left early, if any may; whether it goes on.
bool take(Stream& stream, const int32_t* tokens, const uint8_t* left, int count) {
  bool going = true;
  if (left) std::copy_n(left, count, stream.left + stream.made);
  for (int i = 0; i < count; ++i) {
    stream.out[stream.made++] = tokens[i];
    going = going && tokens[i] >= 0 && !ends(stream, tokens[i]);
  }
  stream.last = tokens[count - 1];
  stream.piece.start += count;
  Draft& draft = stream.draft;
  if (!draft.count || !going) return going;
  // All but the last were as expected; where nothing more was, the draft is used up.
  const bool right = count <= draft.count && draft.tokens[count - 1] == stream.last;
  if (!right && stream.agreed < kTrusted) return false;
  stream.agreed = right ? std::min(stream.agreed + count, kTrusted) : 0;
  draft.tokens += std::min(count, draft.count);
  draft.count -= std::min(count, draft.count);
  return draft.count > 0;
}

}  // namespace

void verify(Model& model, Sampler* const* samplers, const Draft* drafts, int count,
            const float* logits, int32_t* out, int32_t* made) {
  const size_t vocabulary = size_t(model.shape().vocabulary);
  struct Row {
    int writer, number;
  };
  std::vector<Row> rows;
  std::vector<int> last(count);  // of each writer's rows, as far as is known
  for (int i = 0; i < count; ++i) {
    last[i] = drafts[i].count;
    for (int k = 0; k <= drafts[i].count; ++k) rows.push_back({i, k});
  }
  const auto fits = [&](int writer, int number, int32_t token) {
    return token >= 0 && number < drafts[writer].count && drafts[writer].tokens[number] == token;
  };
  model.each(int(rows.size()), [&](int row, Workspace& space) {
    const auto [writer, number] = rows[row];
    Sampler& sampler = *samplers[writer];
    const auto draw = [&](const Sampler& by, int at) {
      return out[at] = by.sample(model.kernels(), logits + size_t(at) * vocabulary,
                                 int(vocabulary), space);
    };
    std::atomic_ref<int> end(last[writer]);
    if (sampler.penalizes()) {  // each token depends on those before
      for (int k = 0; number == 0; ++k) {
        const int32_t token = draw(sampler, row + k);
        if (token >= 0) sampler.accept(token);
        if (fits(writer, k, token)) continue;
        end = k;
        return;
      }
      return;
    }
    if (number > end.load(std::memory_order_relaxed)) return;
    if (fits(writer, number, draw(sampler.after(number), row))) return;
    for (int known = end; number < known && !end.compare_exchange_weak(known, number);) {
    }
  });
  for (int i = 0, row = 0; i < count; row += drafts[i++].count + 1) {
    made[i] = last[i] + 1;
    for (int k = 0; k < made[i] && !samplers[i]->penalizes(); ++k)
      if (out[row + k] >= 0) samplers[i]->accept(out[row + k]);
  }
}

int write(Model& model, std::vector<Stream>& streams, const int32_t* tables, int steps,
          float* logits, int32_t* rows) {
  const int count = int(streams.size());
  std::vector<Piece> pieces(count);
  std::vector<uint8_t> fine(count);
  std::vector<int32_t> ids, wanted, drawn, made(count);
  std::vector<Stream*> alive;
  std::vector<Sampler*> samplers;
  std::vector<Draft> drafts;
  int done = 0;
  for (bool going = true; going && done < steps; ++done) {
    ids.clear();
    for (int i = 0; i < count; ++i) {
      Stream& stream = streams[i];
      const int drafted = width(stream);
      stream.piece.first_id = int32_t(ids.size());
      stream.piece.length = 1 + drafted;
      ids.push_back(stream.last);
      ids.insert(ids.end(), stream.draft.tokens, stream.draft.tokens + drafted);
      pieces[i] = stream.piece;
    }
    const size_t before = model.trail().size();
    model.forward(pieces.data(), count, ids.data(), tables, fine.data());
    const uint8_t* left = model.trail().size() > before ? model.trail().data() + before : nullptr;
    *rows += int32_t(ids.size());
    wanted.clear(), alive.clear(), samplers.clear(), drafts.clear();
    for (int i = 0; i < count; ++i) {
      Stream& stream = streams[i];
      if (!fine[i]) {
        stream.broken = pieces[i].length > 1;
        if (!stream.broken) stream.out[stream.made++] = -1;
        going = false;
        continue;
      }
      for (int k = 0; k < pieces[i].length; ++k) wanted.push_back(pieces[i].first_id + k);
      alive.push_back(&stream);
      samplers.push_back(stream.sampler);
      drafts.push_back({stream.draft.tokens, pieces[i].length - 1});
    }
    model.logits(wanted.data(), int(wanted.size()), logits);
    drawn.resize(wanted.size());
    verify(model, samplers.data(), drafts.data(), int(alive.size()), logits, drawn.data(),
           made.data());
    const int32_t* tokens = drawn.data();
    for (size_t i = 0; i < alive.size(); ++i) {
      const int first = alive[i]->piece.first_id;
      going &= take(*alive[i], tokens, left ? left + first : nullptr, made[i]);
      tokens += drafts[i].count + 1;
    }
  }
  return done;
}

}  // namespace everloop
