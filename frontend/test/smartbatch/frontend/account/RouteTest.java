package smartbatch.frontend.account;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;

import org.junit.Test;

public class RouteTest {
    private static void takes(String uri, String route, String model) {
        assertEquals(uri, new Route(route, model), Route.of(uri));
    }

    private static void isNone(String uri) {
        assertNull(uri, Route.of(uri));
    }

    @Test
    public void everyWayToAskForAPrediction() {
        takes("/predictions/m", "predictions", "m");
        takes("/predictions/m/", "predictions", "m");
        takes("/predictions/m/1.0", "predictions", "m");
        takes("/predictions/m/1.0/further/parts", "predictions", "m");
        takes("/predictions/m?trace=1", "predictions", "m");
        takes("/explanations/m", "explanations", "m");
        takes("/v1/models/m:predict", "v1", "m");
        takes("/v1/models/m:explain", "v1", "m");
        takes("/v2/models/m/infer", "v2", "m");
        takes("/v2/models/m/versions/1.0/infer", "v2", "m");
        takes("/v2/models/m/explain", "v2", "m");
        takes("/invocations?model_name=m", "invocations", "m");
        takes("/invocations", "invocations", "");
        takes("/models/m/invoke", "invoke", "m");
        takes("/m/predict", "legacy", "m");
        takes("/m/1.0/predict", "legacy", "m");
        takes("/wfpredict/w", "workflow", "");
    }

    @Test
    public void namesAreDecodedBeforeThePathIsCut() {
        takes("/predictions/my%20m%C3%B6del?x=%2F", "predictions", "my mödel");
        takes("/%70redictions/m", "predictions", "m");
        takes("/predictions%2Fm", "predictions", "m");
        takes("/invocations?model_name=a%20b", "invocations", "a b");
        takes("/predictions/%zz", "predictions", "%zz"); // which TorchServe refuses
        takes("/predictions/a%0Ab", "predictions", "a\nb");
    }

    @Test
    public void whatNamesNoModelIsCountedWithoutOne() {
        takes("/predictions", "predictions", "");
        takes("/predictions/", "predictions", "");
    }

    @Test
    public void otherRequestsAreNone() {
        isNone("/");
        isNone("/ping");
        isNone("/ping/x/predict");
        isNone("/api-description");
        isNone("/models/m/other");
        isNone("/models/m/predict");
        isNone("/v2/models/m");
        isNone("/v2/models/m/ready");
        isNone("/v2/health/ready");
        isNone("/v1/models/m");
        isNone("/predictionsx/m");
        isNone("*");
    }
}
