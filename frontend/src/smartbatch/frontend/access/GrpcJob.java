package smartbatch.frontend.access;

import com.google.gson.JsonParser;
import io.grpc.Status;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.pytorch.serve.grpc.inference.PredictionResponse;
import org.pytorch.serve.job.GRPCJob;
import org.pytorch.serve.util.GRPCUtils;
import org.pytorch.serve.util.messages.RequestInput;
import org.pytorch.serve.util.messages.WorkerCommands;

/** A `Predictions` call that ends in a status where the handler answers with an error; TorchServe makes it a reply. */
public final class GrpcJob extends GRPCJob {
    private static final String WORKER_DIED = "Worker died.";

    private final ServerCallStreamObserver<PredictionResponse> call;

    /** As TorchServe's InferenceImpl makes one; `version` may be null. */
    public GrpcJob(
            StreamObserver<PredictionResponse> call,
            String model,
            String version,
            WorkerCommands command,
            RequestInput input) {
        super(call, model, version, command, input);
        this.call = (ServerCallStreamObserver<PredictionResponse>) call;
    }

    @Override
    public void response(byte[] body, CharSequence type, int status, String phrase, Map<String, String> headers) {
        if (status < 400) {
            super.response(body, type, status, phrase, headers);
        } else {
            fail(statusOf(status), messageOf(body));
        }
    }

    @Override
    public void sendError(int status, String error) {
        fail(error.equals(WORKER_DIED) ? Status.UNAVAILABLE : statusOf(status), error);
    }

    @Override
    public boolean isOpen() {
        return !call.isCancelled();
    }

    private void fail(Status status, String message) {
        if (isOpen()) {
            call.onError(status.withDescription(message).asRuntimeException());
        }
    }

    /** What a client does about it is the same in both worlds: mend the request, try again later, or neither. */
    static Status statusOf(int httpStatus) {
        switch (httpStatus) {
            case 415, 422:
                return Status.INVALID_ARGUMENT;
            case 507:
                return Status.RESOURCE_EXHAUSTED;
            default:
                return GRPCUtils.getGRPCStatusCode(httpStatus);
        }
    }

    /** The message in {@code {"error": {"message": …}}}; other handlers' bodies as they are. */
    static String messageOf(byte[] body) {
        String text = new String(body, StandardCharsets.UTF_8);
        try {
            return JsonParser.parseString(text).getAsJsonObject().getAsJsonObject("error").get("message").getAsString();
        } catch (RuntimeException e) { // gson has one for each way in which it is of another form
            return text;
        }
    }
}
