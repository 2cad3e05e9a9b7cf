package smartbatch.frontend.operations;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.QueryStringDecoder;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.pytorch.serve.archive.model.ModelVersionNotFoundException;
import org.pytorch.serve.wlm.Model;
import org.pytorch.serve.wlm.ModelManager;
import smartbatch.frontend.http.Answer;
import smartbatch.frontend.models.Models;

/** What the Open Inference Protocol lets clients ask about server and models, under /v2; its errors are strings. */
final class OpenInference {
    private final Models models;
    private final String serverVersion;

    OpenInference(Models models, String serverVersion) {
        this.models = models;
        this.serverVersion = serverVersion;
    }

    /** In the archive, {"inputs": …, "outputs": …}: `smartbatch archive` writes it, what others built has none. */
    private static final String TENSORS = "oip.json";

    private static final Pattern MODEL = Pattern.compile("/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready)?/?");

    /** @param path under /v2, still encoded: a name may hold a slash. */
    FullHttpResponse answer(String path) {
        JsonObject body = new JsonObject();
        if (path.equals("/v2") || path.equals("/v2/")) {
            body.addProperty("name", "smartbatch");
            body.addProperty("version", serverVersion);
            JsonArray extensions = new JsonArray();
            extensions.add("binary_tensor_data");
            extensions.add("classification");
            body.add("extensions", extensions);
            return Answer.json(HttpResponseStatus.OK, body.toString());
        }
        Matcher asked = MODEL.matcher(path);
        String name = asked.matches() ? decode(asked.group(1)) : null;
        String version = name == null || asked.group(2) == null ? null : decode(asked.group(2));
        Optional<Models.Version> model = name == null ? Optional.empty() : models.find(name, version);
        if (model.isEmpty()) {
            String what = name == null ? path : "model " + name + (version == null ? "" : " version " + version);
            return error(HttpResponseStatus.NOT_FOUND, "not found: " + what);
        }
        body.addProperty("name", name);
        if (asked.group(3) == null) {
            return metadata(model.get(), body);
        }
        return Health.answer(body, model.get().isReady() ? null : "no worker has the model loaded");
    }

    private FullHttpResponse metadata(Models.Version version, JsonObject body) {
        JsonArray versions = new JsonArray();
        models.versions().stream().filter(other -> other.name().equals(version.name()))
                .map(Models.Version::version).sorted().forEach(versions::add);
        body.add("versions", versions);
        body.addProperty("platform", "pytorch");
        try {
            Model model = ModelManager.getInstance().getModel(version.name(), version.version());
            File tensors = new File(model.getModelDir(), TENSORS);
            body.add("inputs", new JsonArray());
            body.add("outputs", new JsonArray());
            if (tensors.exists()) {
                JsonObject told = JsonParser.parseString(Files.readString(tensors.toPath())).getAsJsonObject();
                told.entrySet().forEach(entry -> body.add(entry.getKey(), entry.getValue()));
            }
        } catch (ModelVersionNotFoundException | NullPointerException | IOException e) { // it goes this moment
            return error(HttpResponseStatus.NOT_FOUND, "not found: model " + version.name());
        }
        return Answer.json(HttpResponseStatus.OK, body.toString());
    }

    private static String decode(String part) {
        return QueryStringDecoder.decodeComponent(part.replace("+", "%2B"));
    }

    private static FullHttpResponse error(HttpResponseStatus status, String message) {
        JsonObject body = new JsonObject();
        body.addProperty("error", message);
        return Answer.json(status, body.toString());
    }
}
