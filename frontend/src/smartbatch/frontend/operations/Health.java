package smartbatch.frontend.operations;

import com.google.gson.JsonObject;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.util.function.BooleanSupplier;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.models.Models;

/**
 * Whether every model that should serve has a worker with its model loaded.
 *
 * <p>One should serve whose default version, which requests reach without naming any, has workers asked for. A version
 * that is brought up beside it, as a retune does, changes nothing. A server that drains is not ready whatever it has.
 */
final class Health {
    private final Models models;
    private final BooleanSupplier isDraining;

    Health(Models models, BooleanSupplier isDraining) {
        this.models = models;
        this.isDraining = isDraining;
    }

    /** 200 or 503, {"ready": …, "models": {NAME: {"version": "1.0", "ready": …, "min_workers": 1}}}. */
    FullHttpResponse ready() {
        JsonObject found = new JsonObject();
        String missing = null;
        for (Models.Version model : models.versions()) {
            if (!model.isDefault()) {
                continue;
            }
            JsonObject state = new JsonObject();
            state.addProperty("version", model.version());
            state.addProperty("ready", model.isReady());
            state.addProperty("min_workers", model.minWorkers());
            found.add(model.name(), state);
            if (model.minWorkers() > 0 && !model.isReady()) {
                missing = model.name() + " " + model.version() + " has no worker with its model loaded";
            }
        }
        JsonObject body = new JsonObject();
        body.add("models", found);
        String reason = found.size() == 0 ? "no model is registered" : missing;
        return answer(body, isDraining.getAsBoolean() ? "the server is draining" : reason);
    }

    /** 200 without a `reason` against being ready and 503 with one; both are told in `body`. */
    static FullHttpResponse answer(JsonObject body, String reason) {
        body.addProperty("ready", reason == null);
        if (reason != null) {
            body.addProperty("message", reason);
        }
        HttpResponseStatus status = reason == null ? HttpResponseStatus.OK : HttpResponseStatus.SERVICE_UNAVAILABLE;
        return Answer.json(status, body.toString());
    }
}
