package smartbatch.frontend.account;

import io.netty.handler.codec.http.QueryStringDecoder;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Which of TorchServe's ways to ask for a prediction a request takes.
 *
 * @param name one of {@link #RULES}.
 * @param model as the client wrote it, so anything at all; empty where the address does not say.
 */
record Route(String name, String model) {

    /** As TorchServe takes a path apart: decoded first, cut at the slashes then. */
    private static final List<Map.Entry<String, Pattern>> RULES =
            List.of(
                    rule("predictions", "/predictions(?:/([^/]*).*)?"),
                    rule("v1", "/v1/models/([^/:]*)[^/]*:(?:predict|explain)[^/]*"),
                    rule("v2", "/v2/models/([^/:]*)[^/]*(?:/versions/[^/]*)?/(?:infer|explain)"),
                    rule("invocations", "/invocations(?:/.*)?()"),
                    rule("invoke", "/models/([^/]*)/invoke"),
                    rule("explanations", "/explanations(?:/([^/]*).*)?"),
                    rule("workflow", "/wfpredict/[^/]*()"),
                    rule("legacy", "/(?!(?:ping|api-description|models)/)([^/]+)(?:/[^/]*)?/predict"));

    private static Map.Entry<String, Pattern> rule(String name, String path) {
        return Map.entry(name, Pattern.compile(path + "/*", Pattern.DOTALL));
    }

    /** The route of a request; null for what asks for no prediction. */
    static Route of(String uri) {
        QueryStringDecoder address = new QueryStringDecoder(uri);
        String path;
        String query;
        try {
            path = address.path();
            query = address.parameters().getOrDefault("model_name", List.of("")).get(0);
        } catch (IllegalArgumentException e) { // TorchServe refuses it; it is counted all the same
            path = address.rawPath();
            query = "";
        }
        for (Map.Entry<String, Pattern> rule : RULES) {
            Matcher match = rule.getValue().matcher(path);
            if (match.matches()) {
                String named = match.group(1) == null ? "" : match.group(1);
                return new Route(rule.getKey(), rule.getKey().equals("invocations") ? query : named);
            }
        }
        return null;
    }
}
