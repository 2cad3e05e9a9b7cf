package smartbatch.frontend.access;

import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import org.pytorch.serve.archive.model.ModelNotFoundException;
import org.pytorch.serve.archive.model.ModelVersionNotFoundException;
import org.pytorch.serve.http.BadRequestException;
import org.pytorch.serve.http.InternalServerException;
import org.pytorch.serve.util.ConnectorType;

/**
 * Lets gRPC calls pass that a worker of ours can answer, and gives TorchServe's refusals the status that tells a client
 * what to do.
 *
 * <p>Streams of answers want a header from the handler that ours does not send, and the Open Inference Protocol's calls
 * one answer in a form of their own: either would end the worker, with all requests of its batch.
 */
public final class GrpcCalls implements ServerInterceptor {
    private final Rules rules;
    private final ConnectorType type;

    /** @param rules who may manage. */
    public GrpcCalls(Rules rules, ConnectorType type) {
        this.rules = rules;
        this.type = type;
    }

    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
        Status refusal = refusal(call);
        if (refusal != null) {
            call.close(refusal, new Metadata());
            return new ServerCall.Listener<>() {};
        }
        return next.startCall(
                new SimpleForwardingServerCall<>(call) {
                    @Override
                    public void close(Status status, Metadata trailers) {
                        super.close(told(status), trailers);
                    }
                },
                headers);
    }

    private Status refusal(ServerCall<?, ?> call) {
        if (type == ConnectorType.OPEN_INFERENCE_CONNECTOR) {
            return Status.UNIMPLEMENTED.withDescription(
                    "the Open Inference Protocol is served over HTTP, under /v2; over gRPC there is Predictions");
        }
        if (call.getMethodDescriptor().getBareMethodName().startsWith("StreamPredictions")) {
            return Status.UNIMPLEMENTED.withDescription("a request has one answer here: call Predictions");
        }
        if (type != ConnectorType.MANAGEMENT_CONNECTOR) {
            return null;
        }
        String reason =
                rules.refusal(
                        call.getAttributes().get(Grpc.TRANSPORT_ATTR_LOCAL_ADDR),
                        call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR));
        return reason == null ? null : Status.PERMISSION_DENIED.withDescription(reason);
    }

    /** TorchServe calls INTERNAL whatever it refuses, and says by an exception what it was. */
    private static Status told(Status status) {
        Throwable cause = status.getCause();
        Status known = null;
        if (cause instanceof ModelNotFoundException || cause instanceof ModelVersionNotFoundException) {
            known = Status.NOT_FOUND;
        } else if (cause instanceof BadRequestException) {
            known = Status.INVALID_ARGUMENT;
        } else if (cause instanceof InternalServerException) { // no worker, or a full queue
            known = Status.UNAVAILABLE;
        }
        return known == null ? status : known.withDescription(cause.getMessage());
    }
}
