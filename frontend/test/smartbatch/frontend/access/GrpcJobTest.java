package smartbatch.frontend.access;

import static org.junit.Assert.assertEquals;

import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import org.junit.Test;

public class GrpcJobTest {
    private static String message(String body) {
        return GrpcJob.messageOf(body.getBytes(StandardCharsets.UTF_8));
    }

    @Test
    public void eachErrorHasTheStatusThatTellsWhatToDo() {
        for (int status : new int[] {400, 415, 422}) {
            assertEquals(Status.INVALID_ARGUMENT, GrpcJob.statusOf(status));
        }
        assertEquals(Status.RESOURCE_EXHAUSTED, GrpcJob.statusOf(413));
        assertEquals(Status.RESOURCE_EXHAUSTED, GrpcJob.statusOf(507));
        assertEquals(Status.UNAVAILABLE, GrpcJob.statusOf(503));
        assertEquals(Status.DEADLINE_EXCEEDED, GrpcJob.statusOf(504));
        assertEquals(Status.INTERNAL, GrpcJob.statusOf(500));
    }

    @Test
    public void theMessageIsOurErrorsAndOtherBodiesAsTheyAre() {
        assertEquals("too short", message("{\"error\": {\"code\": \"c\", \"message\": \"too short\"}}"));
        String[] others = {"", "text", "[1]", "{\"error\": 7}", "{\"error\": {}}", "{\"error\": {\"message\": {}}}"};
        for (String other : others) {
            assertEquals(other, message(other));
        }
    }
}
